"""Training steps of several methods on a tiny model, for what computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.captioned import CAPTIONS, make_captioned, short_lora
from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.lora import LoraConfig
from training.config.textual_inversion import TextualInversionConfig
from training.data.inputs import read_inputs
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.machine.stack import resolve_stack
from training.method import Method
from training.methods.lora import Lora
from training.methods.textual_inversion import TextualInversion
from training.models.denoising import Denoising
from training.models.loading import Models
from training.ranks.launcher import Ranks
from training.storage.resume import start_or_resume

ALONE = Ranks("no launcher", 0, 1, 0, 1)
Build = Callable[..., TrainingStep]

CASES: dict[str, tuple[type[Method], dict[str, object]]] = {
    "a word": (TextualInversion, {"num_vectors": 2}),
    "a word, our own kernels": (
        TextualInversion,
        {"attention": "fused", "convolution": "winograd", "resolution": 64},
    ),
    "LoRA": (Lora, {"snr_gamma": 5, "train_batch_size": 2}),
    "LoRA and a word": (
        Lora,
        {
            "train_text_encoder_ti": "true",
            "placeholder_token": "<new>",
            "initializer_token": "toy",
        },
    ),
    "LoRA of convolutions and the text encoder": (
        Lora,
        {"lora_layers": "attn2.to_q,conv1,conv2", "train_text_encoder": "true"},
    ),
}


def models_of(step: TrainingStep) -> Models:
    """What a step computes with."""
    denoising = getattr(step.losses, "args")[0]  # noqa: B009
    assert isinstance(denoising, Denoising)
    return denoising.models


@pytest.fixture
def build(flags: Flags, tiny_model: Path, latents: Path, tmp_path: Path) -> Build:
    """A training step of a method on the tiny model."""

    def step(method: type[Method], say: Callable[[str], None] = print, **changes: Any) -> Any:
        if method is Lora:
            captions = ("a red <new>", "a dog") if "placeholder_token" in changes else CAPTIONS
            captioned = make_captioned(tmp_path / "captioned", captions)
            argv = short_lora(tiny_model, captioned, latents, tmp_path / "run", **changes)
        else:
            argv = flags(**changes)
        kind = LoraConfig if method is Lora else TextualInversionConfig
        config, _ = parse(kind, argv, "test", "")
        inputs = read_inputs(method, config, lambda text: None)
        config.output_dir.mkdir(exist_ok=True)
        stack = resolve_stack("upstream")
        record, _ = start_or_resume(inputs, stack, ALONE, lambda text: None)
        built = build_step(inputs, record, stack, ALONE, say)
        # Away from the start of LoRA, where the gradient of the first matrices is zero.
        with torch.no_grad():
            for name, parameter in built.parameters.items():
                if "lora_B" in name:
                    parameter.fill_(1e-2)
        return built

    return step
