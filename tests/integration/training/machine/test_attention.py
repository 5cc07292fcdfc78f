"""Our own attention kernel computes what PyTorch's does, the same bits every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from tests.compiled_for_avx2 import compiled_for_avx2
from tests.processes import Environment, KillAt, run_ranks
from tests.run_folder import learned_rows, run_record
from tests.training_fixtures import Flags
from training.machine import kernel_library
from training.machine.attention import choice, operation, processor
from training.machine.attention.library import ATTENTION
from training.machine.attention.operation import attention
from training.machine.cpu import Cpu
from training.storage.events import events_of, read_events

HAS_IT = ATTENTION.is_possible()
OURS: Callable[..., Tensor] = attention if HAS_IT else F.scaled_dot_product_attention
"""On a processor without AVX2 there is none: PyTorch's passes these tests, too."""
MANY = 64
"""Pixels: the tiny UNet has 1024 tokens then, enough for the kernel."""
STEP = "training.loop.step:TrainingStep.__call__"

SHAPES = {
    "Stable Diffusion 1.5's lowest": (1, 8, 64, 64, 160),
    "and its highest, fewer tokens": (1, 2, 1100, 1100, 40),
    "in the middle": (2, 2, 256, 256, 80),
    "another text": (2, 2, 100, 77, 64),
    "odd lengths": (1, 3, 97, 131, 40),
    "one token": (2, 1, 1, 1, 8),
    "one key": (1, 2, 33, 1, 40),
    "one query": (1, 2, 1, 90, 8),
    "channels that fill no vector": (1, 2, 70, 65, 24),
    "an odd number of channels": (1, 2, 70, 65, 7),
    "as many channels as it takes": (1, 1, 70, 70, 256),
}
"""Batch, heads, queries, keys, channels."""


def tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Query, key, value and the output's gradient, as a UNet has them in memory."""
    batch, heads, queries, keys, channels = shape
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, rows, heads, channels, generator=generator).to(dtype).transpose(1, 2)
        for rows in (queries, keys, keys, queries)
    ]


def results(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, grad: Tensor
) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    inputs = [each.detach().requires_grad_() for each in (query, key, value)]
    out = kernel(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Of each: the norm of the difference."""
    return [float((a.double() - b).norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_near_to_float64_as_pytorch_is(shape: str, dtype: torch.dtype) -> None:
    given = tensors(SHAPES[shape], dtype)
    wanted = results(F.scaled_dot_product_attention, *(each.double() for each in given))
    ours = errors(results(OURS, *given), wanted)
    theirs = errors(results(F.scaled_dot_product_attention, *given), wanted)
    # What is zero in truth, such as a single key's gradient, PyTorch sometimes has exactly.
    rounding = 1e-6 * max(float(each.norm()) for each in wanted)
    for found, of_pytorch in zip(ours, theirs, strict=True):
        assert found <= 1.25 * of_pytorch + rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_may_be_large(dtype: torch.dtype) -> None:
    """One key has all the weight: what is small beside it vanishes, and nothing overflows."""
    query, key, value, grad = tensors((1, 2, 130, 200, 40), dtype)
    given = (60 * query, 60 * key, value, grad)
    wanted = results(F.scaled_dot_product_attention, *(each.double() for each in given))
    ours = errors(results(OURS, *given), wanted)
    theirs = errors(results(F.scaled_dot_product_attention, *given), wanted)
    for found, of_pytorch in zip(ours, theirs, strict=True):
        assert found <= 1.5 * of_pytorch + 1e-6 * float(wanted[0].norm())


def test_a_nan_is_passed_on() -> None:
    query, key, value, grad = tensors((1, 1, 20, 30, 8), torch.float32)
    query[0, 0, 3, 2] = torch.nan
    out, of_query, of_key, _ = results(OURS, query, key, value, grad)
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, [*range(3), *range(4, 20)]].isfinite().all()
    assert of_query[0, 0, 3].isnan().all()
    assert of_key.isnan().all()


def test_tensors_may_lie_anyhow_in_memory() -> None:
    shape = (2, 3, 50, 60, 16)
    given = tensors(shape, torch.float32)
    wanted = results(OURS, *given)
    strange: list[Callable[[Tensor], Tensor]] = [
        lambda value: value.contiguous(),
        lambda value: value.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda value: torch.cat([value, value], -1)[..., :16],
        lambda value: torch.cat([value, value], 0)[:2],
        lambda value: torch.stack([value, value], -1)[..., 0],
    ]
    for change in strange:
        for found, expected in zip(results(OURS, *map(change, given)), wanted, strict=True):
            assert torch.equal(found, expected)
    query, key, value, grad = given
    whole = results(OURS, query, key, value, torch.ones_like(grad))
    expanded = results(OURS, query, key, value, torch.ones(()).expand(grad.shape))
    assert all(torch.equal(a, b) for a, b in zip(whole, expanded, strict=True))


def test_a_scale_can_be_given() -> None:
    given = tensors((1, 2, 40, 50, 16), torch.float32)

    def scaled(kernel: Callable[..., Tensor]) -> list[Tensor]:
        return results(lambda *inputs: kernel(*inputs, scale=0.5), *given)

    for found, wanted in zip(scaled(OURS), scaled(F.scaled_dot_product_attention), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_every_time(dtype: torch.dtype) -> None:
    """Beside other load, and with any number of threads."""
    given = tensors((1, 2, 1500, 1500, 40), dtype)
    wanted = results(OURS, *given)
    threads = torch.get_num_threads()
    try:
        for number in range(24):
            torch.set_num_threads(1 + number % 3)
            found = results(OURS, *given)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), number
    finally:
        torch.set_num_threads(threads)


def test_it_is_traced_with_its_gradient() -> None:
    given = tensors((1, 2, 40, 40, 16), torch.float32)

    def gradients(*inputs: Tensor) -> list[Tensor]:
        return results(OURS, *inputs)

    graph = make_fx(gradients, tracing_mode="fake")(*given)
    names = {str(node.target) for node in graph.graph.nodes}
    if HAS_IT:
        assert {
            "xeon_diffusion.attention.default",
            "xeon_diffusion.attention_backward.default",
        } <= names
    for found, wanted in zip(graph(*given), gradients(*given), strict=True):
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()


def test_its_derivative_and_shapes_are_what_pytorch_expects() -> None:
    given = [each.requires_grad_() for each in tensors((2, 2, 5, 6, 8), torch.float32)[:3]]
    if HAS_IT:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        operation = torch.ops.xeon_diffusion.attention.default
        torch.library.opcheck(operation, (*given, 0.3), test_utils=checks)


def test_without_avx2_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "this_cpu", lambda: Cpu("", ("avx2",), 1))
    assert ATTENTION.why_not(print) == "this processor has no AVX2"


@pytest.mark.skipif(not HAS_IT, reason="the kernel is for processors with AVX2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_for_avx2_it_is_as_near(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = compiled_for_avx2(ATTENTION, tmp_path, monkeypatch)
    monkeypatch.setattr(operation, "ATTENTION", narrow)
    for shape in SHAPES:
        test_it_is_as_near_to_float64_as_pytorch_is(shape, dtype)


@pytest.mark.parametrize(
    ("requested", "shape", "gain", "why"),
    [
        ("torch", (8, 4096, 40), 3.0, "it was asked for"),
        ("auto", (8, 4096, 40), 3.0, ""),
        ("auto", (8, 4096, 40), 1.05, "the kernel is 1.05 times as fast"),
        ("auto", (8, 256, 40), 3.0, "no self-attention over 1024 tokens"),
        ("auto", None, 3.0, "no self-attention over 1024 tokens"),
        ("auto", (1, 4096, 320), 3.0, "320 channels, more than 256"),
        ("fused", (8, 512, 40), 0.5, ""),
        ("fused", (8, 256, 40), 3.0, "no self-attention over 512 tokens"),
        ("fused", None, 3.0, "no self-attention over 512 tokens"),
    ],
)
def test_auto_takes_the_faster(
    requested: str,
    shape: choice.Shape | None,
    gain: float,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "measured_gain", lambda *_: gain)
    monkeypatch.setattr(kernel_library.KernelLibrary, "load", lambda self, notify: None)
    found = choice.why_torch(requested, shape, torch.float32, print)
    assert (found == "") if not why else (why in found)


@pytest.mark.parametrize(
    ("dtypes", "keys"),
    [((torch.float16,) * 3, 8), ((torch.bfloat16, torch.float32, torch.float32), 8),
     ((torch.float32,) * 3, 0)],
    ids=["float16", "two types", "no key"],
)  # fmt: skip
def test_what_it_would_misread_is_refused(dtypes: tuple[torch.dtype, ...], keys: int) -> None:
    query, key, value = (
        torch.zeros(1, 1, rows, 8, dtype=dtype)
        for rows, dtype in zip((8, keys, keys), dtypes, strict=True)
    )
    with pytest.raises(RuntimeError, match="attention: query, key and value do not fit"):
        attention(query, key, value)


def test_both_are_timed() -> None:
    if HAS_IT:
        assert choice.measured_gain((2, 64, 40), torch.float32) > 0


def test_a_unet_with_it_learns_what_it_learns_without(flags: Flags, tmp_path: Path) -> None:
    for name in ("torch", "fused"):
        argv = flags(output_dir=tmp_path / name, attention=name, resolution=MANY)
        (run,) = run_ranks(argv, tmp_path / "logs")
        assert run.code == 0, run.output
        assert ("attention: our own kernel" in run.output) == (name == "fused" and HAS_IT)
    ours, theirs = learned_rows(tmp_path / "fused"), learned_rows(tmp_path / "torch")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert torch.equal(ours, theirs) != HAS_IT
    assert "attention" not in run_record(tmp_path / "torch")
    assert run_record(tmp_path / "fused").get("attention") == ("fused" if HAS_IT else None)


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_goes_on_with_it_bit_for_bit(size: int, flags: Flags, tmp_path: Path) -> None:
    def build(folder: str, **changes: object) -> list[str]:
        return flags(
            output_dir=tmp_path / folder, attention="fused", resolution=MANY,
            gradient_accumulation_steps=4 // size, **changes,
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
    (first,) = run_ranks(
        flags(attention="fused", resolution=MANY, max_train_steps=2), tmp_path / "logs"
    )
    assert first.code == 0, first.output
    (resumed,) = run_ranks(
        flags(attention="fused", resolution=MANY, resume_from_checkpoint="latest"),
        tmp_path / "logs",
        1,
        without,
    )
    assert resumed.code == 0, resumed.output
    assert ("PyTorch's is used, whose last bits differ" in resumed.output) == HAS_IT
    starts = events_of(read_events(tmp_path / "run"), "start", "attention")
    assert [start["attention"] for start in starts] == ["fused" if HAS_IT else "torch", "torch"]
    assert run_record(tmp_path / "run").get("attention") == ("fused" if HAS_IT else None)
    (fresh,) = run_ranks(
        flags(attention="fused", resolution=MANY, output_dir=tmp_path / "fresh"),
        tmp_path / "logs",
        1,
        without,
    )
    assert fresh.code == 0, fresh.output
    assert "--attention fused: th" in fresh.output
    assert "attention" not in run_record(tmp_path / "fresh")


def test_the_layers_that_it_can_compute_get_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-attention over many tokens; what is short, and what looks at text, stays PyTorch's."""
    tokens: list[int] = []

    def counting(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        tokens.append(query.shape[2])
        return F.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr(processor, "attention", counting)
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    names = [name for name, _ in processor.self_attention(unet)]
    assert names == [name for name in names if name.endswith("attn1")] != []
    assert choice.largest(unet, 32) == (4, 1024, 8)
    latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 5, 32)
    with torch.no_grad():
        wanted = unet(latents, torch.tensor(1), encoder_hidden_states=text).sample
        assert processor.use_fused(unet) == len(names)
        found = unet(latents, torch.tensor(1), encoder_hidden_states=text).sample
    assert torch.equal(found, wanted)
    assert tokens == [1024] * 3
