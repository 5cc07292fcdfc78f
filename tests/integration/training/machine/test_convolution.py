"""Our own convolution kernel computes what PyTorch's does, the same bits every time."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from tests.captioned import make_captioned, short_lora
from tests.compiled_for_avx2 import compiled_for_avx2
from tests.processes import Environment, KillAt, run_ranks
from tests.run_folder import learned_rows, run_record
from tests.training_fixtures import Flags
from training.machine import kernel_library
from training.machine.convolution import choice
from training.machine.convolution import operation as operations
from training.machine.convolution.layer import (
    WinogradConv2d,
    layers,
    more_memory,
    tile_side,
    use_winograd,
)
from training.machine.convolution.library import CONVOLUTION
from training.machine.convolution.operation import convolution, transform_weight
from training.machine.cpu import Cpu
from training.ranks.launcher import Ranks
from training.storage import kernels

pytestmark = pytest.mark.skipif(
    not CONVOLUTION.is_possible(), reason="the kernel is for processors with AVX2"
)
MANY = 64
"""Pixels: the tiny UNet's latents are 32 x 32 and 16 x 16 then, enough for tiles of two sizes."""
PLAIN = {"mixed_precision": "no", "attention": "torch"}
"""What would else be timed, and could be another choice in another run."""
STEP = "training.loop.step:TrainingStep.__call__"
SHAPES = {
    "square": (1, 16, 32, 16, 32),
    "odd sides": (2, 9, 7, 32, 16),
    "one position": (3, 1, 1, 16, 16),
    "a row": (1, 1, 21, 16, 48),
    "many channels": (1, 8, 8, 640, 320),
}
"""Samples, height, width, channels in and out."""
ERRORS = {1: 1.5, 2: 1.0, 4: 4.0}
"""By a tile's side: how many times PyTorch's rounding error is allowed."""


def tensors(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, weight, bias and the output's gradient."""
    samples, height, width, before, after = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = (
        (samples, before, height, width), (after, before, 3, 3), (after,),
        (samples, after, height, width),
    )  # fmt: skip
    value, weight, bias, grad = (torch.randn(size, generator=generator) for size in sizes)
    return value, weight / (9 * before) ** 0.5, bias, grad


def ours(value: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor, m: int) -> list[Tensor]:
    """The output and the input's gradient, with tiles of m x m."""
    given = value.detach().requires_grad_()
    out = convolution(given, transform_weight(weight, m), bias)
    return [out.detach(), *torch.autograd.grad(out, given, grad)]


def theirs(value: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor) -> list[Tensor]:
    given = value.detach().requires_grad_()
    out = F.conv2d(given, weight, bias, padding=1)
    return [out.detach(), *torch.autograd.grad(out, given, grad)]


@pytest.mark.parametrize("m", ERRORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_near_to_float64(shape: str, m: int) -> None:
    given = tensors(SHAPES[shape])
    wanted = theirs(*(each.double() for each in given))
    for found, of_pytorch, true in zip(ours(*given, m), theirs(*given), wanted, strict=True):
        error, allowed = (float((each.double() - true).norm()) for each in (found, of_pytorch))
        assert error <= ERRORS[m] * allowed + 1e-6 * float(true.norm())
        assert found.shape == true.shape
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_without_a_bias_and_however_it_lies_in_memory() -> None:
    value, weight, _, grad = tensors((2, 8, 8, 16, 32))
    wanted = ours(value, weight, None, grad, 4)
    torch.testing.assert_close(wanted, theirs(value, weight, None, grad), rtol=1e-4, atol=1e-5)
    last = {"memory_format": torch.channels_last}
    for changed in (value.to(**last), torch.stack([value, value], -1)[..., 0]):  # type: ignore[call-overload]
        found = ours(changed, weight.to(**last), None, grad.to(**last), 4)  # type: ignore[call-overload]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    expanded = ours(value, weight, None, torch.ones(()).expand(grad.shape), 4)
    ones = ours(value, weight, None, torch.ones_like(grad), 4)
    assert all(torch.equal(a, b) for a, b in zip(expanded, ones, strict=True))


def test_samples_take_turns_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors((5, 8, 8, 16, 16))
    together = ours(*given, 2)
    monkeypatch.setattr(operations, "SCRATCH", 2 * 16 * 16 * 32)
    torch.testing.assert_close(ours(*given, 2), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("m", ERRORS)
def test_a_large_picture_is_computed_in_strips(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors((2, 21, 10, 16, 32))
    whole = ours(*given, m)
    monkeypatch.setattr(operations, "SCRATCH", 2 * (m + 2) ** 2 * 48 * -(-10 // m))  # two rows
    torch.testing.assert_close(ours(*given, m), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(operations, "SCRATCH", 1)
    torch.testing.assert_close(ours(*given, m), whole, rtol=1e-4, atol=1e-5)


def test_a_nan_is_passed_on() -> None:
    value, weight, bias, grad = tensors((2, 8, 8, 16, 16))
    value[1, 3, 4, 4] = torch.nan
    out, _ = ours(value, weight, bias, grad, 2)
    assert out[1, :, 3:6, 3:6].isnan().all()
    assert out[0].isfinite().all()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("m", ERRORS)
def test_the_same_bits_every_time(m: int) -> None:
    """Beside other load, on several threads."""
    given, threads = tensors((1, 32, 32, 64, 96)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = ours(*given, m)
        for number in range(48):
            found = ours(*given, m)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), number
    finally:
        torch.set_num_threads(threads)


def test_it_is_traced_with_its_gradient() -> None:
    value, weight, bias, grad = tensors((1, 8, 8, 16, 32))

    def gradients(value: Tensor, grad: Tensor) -> list[Tensor]:
        given = value.detach().requires_grad_()
        out = convolution(given, transformed, bias)
        return [out.detach(), *torch.autograd.grad(out, given, grad)]

    transformed = transform_weight(weight, 4)
    graph = make_fx(gradients, tracing_mode="fake", _allow_non_fake_inputs=True)(value, grad)
    names = {str(node.target) for node in graph.graph.nodes}
    assert {
        "xeon_diffusion.convolution.default", "xeon_diffusion.convolution_backward.default"
    } <= names  # fmt: skip
    for found, wanted in zip(graph(value, grad), gradients(value, grad), strict=True):
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()


def test_its_derivative_and_shapes_are_what_pytorch_expects() -> None:
    value, weight, bias, _ = tensors((2, 5, 6, 16, 32))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = (value.requires_grad_(), transform_weight(weight, 2), bias)
    torch.library.opcheck(torch.ops.xeon_diffusion.convolution.default, given, test_utils=checks)


@pytest.mark.parametrize(
    "changed",
    [
        {"value": torch.zeros(1, 16, 8, 8, dtype=torch.bfloat16)},
        {"value": torch.zeros(1, 32, 8, 8)},
        {"value": torch.zeros(16, 8, 8)},
        {"weight": torch.zeros(25, 16, 16)},
        {"weight": torch.zeros(16, 16, 24)},
        {"bias": torch.zeros(8)},
    ],
    ids=["bfloat16", "other channels", "no batch", "other tiles", "half a vector", "a short bias"],
)
def test_what_it_would_misread_is_refused(changed: dict[str, Tensor]) -> None:
    given = {
        "value": torch.zeros(1, 16, 8, 8),
        "weight": torch.zeros(16, 16, 16),
        "bias": torch.zeros(16),
    }
    with pytest.raises(RuntimeError, match="convolution: input, weight and bias do not fit"):
        convolution(**(given | changed))


@pytest.mark.parametrize(
    ("side", "outputs"),
    [(96, 4), (64, 4), (32, 4), (29, 4), (28, 2), (16, 2), (12, 2), (10, 1), (8, 1), (7, None)],
)
def test_tiles_are_large_where_they_are_many(side: int, outputs: int | None) -> None:
    assert tile_side(side) == outputs


@pytest.mark.parametrize(
    ("requested", "shape", "dtype", "gain", "why"),
    [
        ("torch", (64, 320, 320, 4), torch.float32, 3.0, "it was asked for"),
        ("auto", (64, 320, 320, 4), torch.float32, 3.0, ""),
        ("auto", (64, 320, 320, 4), torch.float32, 1.05, "the kernel is 1.05 times as fast"),
        ("auto", (16, 320, 320, 2), torch.float32, 3.0, "convolutions are small"),
        ("auto", (32, 320, 320, 4), torch.float32, 3.0, ""),
        ("auto", None, torch.float32, 3.0, "no 3 x 3 convolution over 8 x 8 positions"),
        ("auto", (64, 320, 320, 4), torch.bfloat16, 3.0, "in fp32 only"),
        ("winograd", (16, 320, 320, 2), torch.float32, 0.5, ""),
        ("winograd", None, torch.float32, 3.0, "no 3 x 3 convolution over 8 x 8 positions"),
        ("winograd", (64, 320, 320, 4), torch.bfloat16, 3.0, "in fp32 only"),
    ],
)
def test_auto_takes_the_faster(
    requested: str,
    shape: choice.Shape | None,
    dtype: torch.dtype,
    gain: float,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "measured_gain", lambda *_: gain)
    monkeypatch.setattr(kernel_library.KernelLibrary, "load", lambda self, notify: None)
    found = choice.why_torch(requested, shape, dtype, print)
    assert (found == "") if not why else (why in found)


def test_both_are_timed() -> None:
    assert choice.measured_gain((16, 32, 16, 2)) > 0


def test_without_avx2_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "this_cpu", lambda: Cpu("", ("sse2",), 1))
    assert CONVOLUTION.why_not(print) == "this processor has no AVX2"


def test_compiled_for_avx2_it_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = compiled_for_avx2(CONVOLUTION, tmp_path, monkeypatch)
    monkeypatch.setattr(operations, "CONVOLUTION", narrow)
    given = tensors((1, 16, 16, 32, 32))
    for side in ERRORS:
        torch.testing.assert_close(ours(*given, side), theirs(*given), rtol=1e-4, atol=1e-5)


def test_the_layers_that_it_can_compute_get_it(tiny_model: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet").requires_grad_(False)
    sizes = {name: (each[1], each[2]) for name, each in layers(unet, 32).items()}
    assert sizes["down_blocks.0.resnets.0.conv1"] == (32, 4)
    assert sizes["mid_block.resnets.1.conv2"] == (16, 2)
    assert sizes["up_blocks.0.upsamplers.0.conv"] == (32, 4)
    assert not {"conv_in", "conv_out", "down_blocks.0.downsamplers.0.conv"} & set(sizes)
    seen: dict[str, int] = {}
    for name in sizes:
        unet.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0].shape[2]})
        )
    latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 5, 32)

    def predict() -> Tensor:
        with torch.no_grad():
            return unet(latents, torch.tensor(1), encoder_hidden_states=text).sample

    wanted = predict()
    assert seen == {name: positions for name, (positions, _) in sizes.items()}
    numbers = sum(each[0].weight.numel() for each in layers(unet, 32).values())
    before = sum(value.numel() for value in unet.parameters())
    assert use_winograd(unet, 32) == len(sizes)
    assert sum(value.numel() for value in unet.parameters()) == before - numbers
    assert sum(isinstance(module, WinogradConv2d) for module in unet.modules()) == len(sizes)
    copied: list[str] = []
    for name in sizes:
        unet.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: (
                None
                if given[0].is_contiguous(memory_format=torch.channels_last)
                else copied.append(name)
            )
        )
    torch.testing.assert_close(predict(), wanted, rtol=1e-4, atol=1e-5)
    assert not copied


def test_auto_keeps_pytorchs_where_memory_is_short(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet").requires_grad_(False)
    more, weights = more_memory(unet, 32), sum(value.nbytes for value in unet.parameters())
    monkeypatch.setattr(choice, "why_torch", lambda *_: "")
    inputs: Any = SimpleNamespace(
        config=SimpleNamespace(attention="torch", convolution="auto"),
        models=SimpleNamespace(unet=unet),
        latent_side=32,
    )
    said: list[str] = []

    def chosen(available: int, ranks: int) -> str:
        free = SimpleNamespace(available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
        alone = Ranks("no launcher", 0, 1, 0, ranks)
        return kernels.choose_kernels(inputs, torch.float32, alone, said.append).convolution

    assert chosen(more + weights, 1) == "winograd"
    assert not said
    assert chosen(more + weights, 2) == "torch"
    assert "GB more per rank" in said[0]
    inputs.config.convolution = "winograd"
    assert chosen(0, 1) == "winograd"
    assert use_winograd(unet, 32)
    assert sum(value.nbytes for value in (*unet.parameters(), *unet.buffers())) == weights + more


def test_beside_adapters_it_computes_the_other_layers(
    tiny_model: Path, tmp_path: Path, latents: Path
) -> None:
    """The rank is one that the kernel could take: the adapters' matrices are let alone."""
    captioned = make_captioned(tmp_path / "captioned")
    argv = short_lora(
        tiny_model, captioned, latents, tmp_path / "run", convolution="winograd", resolution=MANY,
        mixed_precision="no", lora_layers="conv1", rank=16,
    )  # fmt: skip
    (run,) = run_ranks(argv, tmp_path / "logs", main="training.lora:main")
    assert run.code == 0, run.output
    assert re.search(r"convolution: our own kernel in [1-9]\d* layers", run.output)


def test_pictures_are_encoded_with_it(tiny_model: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_model, subfolder="vae").requires_grad_(False)
    pixels = torch.linspace(-1, 1, 3 * MANY**2).view(1, 3, MANY, MANY)

    def encoded() -> Tensor:
        with torch.no_grad():
            return vae.encode(pixels).latent_dist.mean

    wanted = encoded()
    kernels.use_kernels_to_encode(vae, MANY, kernels.Kernels())
    assert torch.equal(encoded(), wanted)
    sizes = {name: positions for name, (_, positions, _) in layers(vae.encoder, MANY).items()}
    seen: dict[str, int] = {}
    kernels.use_kernels_to_encode(vae, MANY, kernels.Kernels(convolution="winograd"))
    for name in sizes:
        vae.encoder.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0].shape[2]})
        )
    torch.testing.assert_close(encoded(), wanted, rtol=1e-4, atol=1e-5)
    assert seen == sizes
    assert "mid_block.resnets.0.conv1" in sizes
    latents = torch.zeros(1, vae.config.latent_channels, 8, 8)
    drawn = vae.decode(latents).sample
    kernels.forget_encoder(vae, kernels.Kernels(convolution="winograd"))
    assert sum(value.numel() for value in vae.parameters()) > 0
    assert vae.encoder is None
    assert torch.equal(vae.decode(latents).sample, drawn)


def test_a_run_draws_after_its_encoder_has_gone(flags: Flags, tmp_path: Path) -> None:
    argv = flags(
        output_dir=tmp_path / "run", convolution="winograd", resolution=MANY, max_train_steps=2,
        latents_cache_dir=tmp_path / "latents", validation_prompt="a photo",
        num_validation_images=1, num_inference_steps=2, **PLAIN,
    )  # fmt: skip
    (run,) = run_ranks(argv, tmp_path / "logs")
    assert run.code == 0, run.output
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_layers_that_are_trained_or_adapted_stay_as_they_are(tiny_model: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    assert use_winograd(unet, 32) == 0
    unet.requires_grad_(False).to(torch.bfloat16)
    assert layers(unet, 32) == {}


def test_a_unet_with_it_learns_what_it_learns_without(flags: Flags, tmp_path: Path) -> None:
    for name in ("torch", "winograd"):
        argv = flags(output_dir=tmp_path / name, convolution=name, resolution=MANY, **PLAIN)
        (run,) = run_ranks(argv, tmp_path / "logs")
        assert run.code == 0, run.output
        assert ("convolution: our own kernel" in run.output) == (name == "winograd")
    found, wanted = learned_rows(tmp_path / "winograd"), learned_rows(tmp_path / "torch")
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert not torch.equal(found, wanted)
    assert "convolution" not in run_record(tmp_path / "torch")
    assert run_record(tmp_path / "winograd")["convolution"] == "winograd"


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_goes_on_with_it_bit_for_bit(size: int, flags: Flags, tmp_path: Path) -> None:
    def build(folder: str, **changes: object) -> list[str]:
        return flags(
            output_dir=tmp_path / folder, convolution="winograd", resolution=MANY,
            **PLAIN, gradient_accumulation_steps=4 // size, **changes,
        )  # fmt: skip

    assert [run.code for run in run_ranks(build("whole"), tmp_path / "logs", size)] == [0] * size
    killed = run_ranks(build("cut"), tmp_path / "logs", size, KillAt(STEP, 4))
    assert killed[0].code == -9
    resumed = run_ranks(build("cut", resume_from_checkpoint="latest"), tmp_path / "logs", size)
    assert [run.code for run in resumed] == [0] * size, resumed[0].output
    assert torch.equal(learned_rows(tmp_path / "cut"), learned_rows(tmp_path / "whole"))


def test_without_a_compiler_pytorch_computes(flags: Flags, tmp_path: Path) -> None:
    """In a new run, and in one that was started with the kernel."""
    without = Environment(
        (("CXX", "no-such-compiler"), ("XDG_CACHE_HOME", str(tmp_path / "empty")))
    )
    shared = {"convolution": "winograd", "resolution": MANY, **PLAIN}
    (first,) = run_ranks(flags(**shared, max_train_steps=2), tmp_path / "logs")
    assert first.code == 0, first.output
    (resumed,) = run_ranks(
        flags(**shared, resume_from_checkpoint="latest"), tmp_path / "logs", 1, without
    )
    assert resumed.code == 0, resumed.output
    assert "started with the convolution kernel" in resumed.output
    (fresh,) = run_ranks(
        flags(**shared, output_dir=tmp_path / "fresh"), tmp_path / "logs", 1, without
    )
    assert fresh.code == 0, fresh.output
    assert "--convolution winograd: th" in fresh.output
    assert "convolution" not in run_record(tmp_path / "fresh")
