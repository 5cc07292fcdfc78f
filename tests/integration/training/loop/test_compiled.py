"""The training step as one compiled graph computes what autograd computes."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from inspect import currentframe
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._inductor.exc import InductorError

from tests.short_run import PRECISIONS
from tests.training_steps import CASES, Build, models_of
from training.loop.compiled import code, gradients, lowering, store
from training.loop.compiled.constants import constants_of, from_json, to_json, weights_of
from training.loop.compiled.graph import inputs_of, trace
from training.loop.compiled.packed_alone import PackedAlone
from training.loop.compiled.weights import pack_convolutions
from training.loop.step import TrainingStep
from training.loop.train import restore, state_of
from training.method import Method
from training.methods.lora import Lora
from training.methods.textual_inversion import TextualInversion
from training.models.denoising import Batch

TOLERANCE = {"no": 1e-5, "bf16": 3e-2}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this module keep compiled code."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def small_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a UNet of one level and one attention: fewer kernels to compile."""
    folder = tmp_path_factory.mktemp("small") / "model"
    shutil.copytree(tiny_model, folder)
    shutil.rmtree(folder / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    return folder


def batch_of(step: TrainingStep, samples: int) -> Batch:
    return step.data.batch([step.draws(0, index) for index in range(samples)])


def native(step: TrainingStep, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    losses = step.losses(step.parameters, batch)
    return losses.detach(), list(torch.autograd.grad(losses.sum(), list(step.parameters.values())))


def differences(
    found: tuple[torch.Tensor, list[torch.Tensor]], wanted: tuple[torch.Tensor, list[torch.Tensor]]
) -> tuple[float, float]:
    """Relative: the largest of a loss, and that of the whole gradient."""
    (losses, gradients), (true_losses, true_gradients) = found, wanted
    flat, true = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, true_gradients))
    loss = ((losses - true_losses) / true_losses).abs().max()
    return float(loss), float((flat - true).norm() / true.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_the_graph_has_the_losses_and_gradients_of_autograd(
    case: str, precision: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingStep, "compile", lambda step: None)
    method, changes = CASES[case]
    step = build(method, mixed_precision=precision, frozen="compiled", **changes)
    batch = batch_of(step, step.train_batch_size)
    graph = trace(step.losses, step.parameters, batch)
    packings = pack_convolutions(graph)
    names = {str(node.target) for node in graph.graph.nodes}
    assert "mkldnn._convolution_pointwise.default" in names
    assert "mkldnn._convolution_transpose_pointwise.default" in names
    # What is left is that of adapters, whose weights change.
    assert ("aten.convolution_backward.default" in names) == ("convolutions" in case)
    with torch.no_grad():
        losses, *gradients = graph(*inputs_of(step.parameters, batch))
    loss, gradient = differences((losses, gradients), native(step, batch))
    assert loss < TOLERANCE[precision]
    assert gradient < 3 * TOLERANCE[precision]
    # A later process finds every constant of the graph without the graph.
    names = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    models = models_of(step)
    found = constants_of(graph, packings, sorted(names), weights_of(models))
    assert found is not None
    before = {name: value.clone() for name, value in weights_of(models).items()}
    wanted, another = native(step, batch), batch_of(step, step.train_batch_size + 1)
    with torch.no_grad():
        expected = step.losses(step.parameters, another)
    packed = PackedAlone(models)
    weights = weights_of(models)
    taken = packed.take(from_json(json.loads(json.dumps(to_json(found)))), weights)
    for name in names:
        value, own = taken[name], getattr(graph, name).detach()
        if own.is_mkldnn:
            value, own = value.to_dense(), own.to_dense()
        assert value.dtype == own.dtype
        assert torch.equal(value, own)
    # What it has packed it has let go, and what else computes does so by what is packed.
    gone = before.keys() - weights.keys()
    assert {"unet.conv_out.weight"} <= gone
    after = weights_of(models)
    assert all(after[name].untyped_storage().nbytes() <= 4 for name in gone)
    loss, gradient = differences(native(step, batch), wanted)
    assert loss < TOLERANCE[precision]
    assert gradient < 3 * TOLERANCE[precision]
    with torch.no_grad():
        evaluated = step.losses(step.parameters, another)
    torch.testing.assert_close(evaluated, expected, rtol=TOLERANCE[precision], atol=0)
    packed.unpack()
    for name, value in weights_of(models).items():
        assert value.stride() == before[name].stride()
        assert value.is_meta or torch.equal(value, before[name])


def test_steps_are_those_of_native_and_go_on_bit_for_bit(
    build: Build, small_model: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test that compiles: 20 steps, then from their middle by the code that is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    said: list[str] = []
    shared = {
        "pretrained_model_name_or_path": small_model,
        "gradient_accumulation_steps": 2,
        "resume_from_checkpoint": None,
        "overwrite_output_dir": "true",
        "attention": "fused",  # operations that inductor has not heard of
        "convolution": "winograd",
        "resolution": 64,  # whose 1024 tokens are enough for it
    }

    def build_as(frozen: str) -> TrainingStep:
        return build(TextualInversion, said.append, frozen=frozen, **shared)

    native_step, step = build_as("native"), build_as("compiled")
    assert any(line.startswith("compiling ") for line in said)
    losses: dict[str, list[float]] = {"native": [], "compiled": []}
    for number in range(20):
        if number == 12:
            middle = copy.deepcopy(state_of(number, step))
        losses["native"].append(native_step(number, 1e-2, lambda: False).loss)
        losses["compiled"].append(step(number, 1e-2, lambda: False).loss)
    assert losses["compiled"] == pytest.approx(losses["native"], rel=1e-5)

    said.clear()
    again = build_as("compiled")
    assert "compiled code found" in said
    assert not any(line.startswith("tracing") for line in said)
    restore(copy.deepcopy(middle), again)
    for number in range(12, 20):
        assert again(number, 1e-2, lambda: False).loss == losses["compiled"][number]
    assert torch.equal(again.parameters["rows"], step.parameters["rows"])

    # Of what is damaged a line is said, and it is made again of what is whole.
    (path,) = [path for path in store.folder().glob("*.json") if "packing" in path.read_text()]
    path.write_text(path.read_text().replace("unet.", "vae."))
    said.clear()
    again = build_as("compiled")
    assert f"--frozen compiled: {path} is damaged: the step is traced again" in said
    assert "compiled code found" in said
    restore(copy.deepcopy(middle), again)
    assert again(12, 1e-2, lambda: False).loss == losses["compiled"][12]
    said.clear()
    build_as("compiled")
    assert "compiled code found" in said
    assert not any(line.startswith(("tracing", "--frozen compiled")) for line in said)


def test_without_a_compiler_native_runs(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(code, "compiler_is_missing", lambda: True)
    step = build(TextualInversion, frozen="compiled")
    assert "--frozen compiled: there is no C++ compiler" in capsys.readouterr().err
    assert step.compiled is None
    assert step(0, 1e-2, lambda: False).loss > 0


def test_what_inductor_cannot_compile_runs_native(
    build: Build, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))

    def broken(*args: object, **named: object) -> None:
        raise InductorError(RuntimeError("Python.h: No such file"), currentframe())

    monkeypatch.setattr(lowering, "compile_fx_inner", broken)
    said: list[str] = []
    step = build(TextualInversion, said.append, frozen="compiled", num_vectors=2)
    assert "cannot be compiled here, so this runs native: RuntimeError: Python.h" in said[-1]
    assert step(0, 1e-2, lambda: False).loss > 0

    # In the middle of a run, too, something is said while a batch of another shape is compiled.
    told: list[str] = []

    def tell(notify: object, text: str) -> contextlib.AbstractContextManager[None]:
        told.append(text)
        return contextlib.nullcontext()

    monkeypatch.setattr(gradients, "ticking", tell)
    for _ in range(2):
        assert step.compiled is not None
        assert step.compiled(batch_of(step, 3)) is None
    assert told == ["preparing the training step for another size"]


@pytest.mark.parametrize(
    ("method", "changes", "why"),
    [
        (TextualInversion, {"gradient_checkpointing": "true"}, "--gradient_checkpointing"),
        (Lora, {"lora_dropout": 0.1}, "dropout is drawn anew"),
    ],
)
def test_what_a_graph_cannot_compute_runs_native(
    method: type[Method],
    changes: dict[str, object],
    why: str,
    build: Build,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = build(method, frozen="compiled", **changes)
    assert f"--frozen compiled: {why}" in capsys.readouterr().err
    assert step.compiled is None


def test_a_rank_says_that_it_waits_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []

    def second() -> None:
        with store.held("a", said.append) as waited:
            assert waited
            assert store.read("a") == "by the first"

    with ThreadPoolExecutor(1) as threads:
        with store.held("a", said.append) as waited:
            assert not waited
            waiting = threads.submit(second)
            while not said and not waiting.done():
                time.sleep(0.01)
            store.write("a", "by the first")
        waiting.result()
    assert said == ["waiting for another process of this machine, which compiles the same step"]
