"""Layers that keep less for the backward pass have the gradients of the layers that they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from tests.training_steps import CASES, Build, models_of
from training.loop import build_step
from training.loop.step import TrainingStep
from training.machine.recomputation import (
    FrozenConv2d,
    RecomputedGEGLU,
    RecomputedResnetBlock2D,
    keep_less,
)
from training.models import frozen
from training.models.loading import Models

OURS = (FrozenConv2d, RecomputedGEGLU, RecomputedResnetBlock2D)


def unet_of(tiny_model: Path, dtype: torch.dtype) -> Any:
    found = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet", torch_dtype=dtype)
    return found.requires_grad_(False).eval()


def step(unet: Any, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """What a UNet says, the gradient of its text, and the bytes kept for it beside weights."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator).to(dtype)
    text = torch.randn(2, 5, 32, generator=generator).to(dtype).requires_grad_()
    weights = {value.untyped_storage().data_ptr() for value in unet.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        said = unet(latents, torch.tensor([7]), encoder_hidden_states=text).sample
    (gradient,) = torch.autograd.grad(said.float().square().sum(), text)
    return [said.detach(), gradient], sum(kept.values())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_and_less_memory(
    dtype: torch.dtype, checkpointed: bool, layout: torch.memory_format, tiny_model: Path
) -> None:
    unet = unet_of(tiny_model, dtype).to(memory_format=layout)
    if checkpointed:
        unet.enable_gradient_checkpointing()
    wanted, before = step(unet, dtype)
    assert keep_less(unet)
    found, after = step(unet, dtype)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert checkpointed or after < 0.7 * before


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_a_training_step_has_the_same_bits(
    case: str, precision: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the adapters of LoRA in it, under autocast, and beside our own kernels."""
    method, changes = CASES[case]

    def gradients() -> tuple[Models, list[Tensor]]:
        step = build(method, mixed_precision=precision, frozen="native", **changes)
        batch = step.data.batch([step.draws(0, index) for index in range(step.train_batch_size)])
        losses = step.losses(step.parameters, batch)
        found = torch.autograd.grad(losses.sum(), list(step.parameters.values()))
        return models_of(step), [losses.detach(), *found]

    models, found = gradients()
    assert {RecomputedGEGLU, RecomputedResnetBlock2D} <= {type(m) for m in models.unet.modules()}
    monkeypatch.setattr(build_step, "keep_less", lambda unet: 0)
    monkeypatch.setattr(frozen, "_round_text_weights", lambda encoder: None)
    models, wanted = gradients()
    assert not any(isinstance(module, OURS) for module in models.unet.modules())
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_trained_stays_as_it_is(tiny_model: Path) -> None:
    unet = unet_of(tiny_model, torch.float32)
    for name, value in unet.named_parameters():
        value.requires_grad_(name.endswith("bias"))
    assert keep_less(unet) == 0


def test_no_other_graph_is_compiled(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled engine decides itself what it keeps: it is given the layers as they were."""
    monkeypatch.setattr(TrainingStep, "compile", lambda step: None)
    step = build(CASES["a word"][0], frozen="compiled", mixed_precision="no")
    assert not any(isinstance(module, OURS) for module in models_of(step).unet.modules())
