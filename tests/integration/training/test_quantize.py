"""Quantization-aware training, in the environment that has NNCF (`make test-openvino`)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from tests.processes import KillAt, run_ranks
from tests.quantizing import FILE, short_quantize
from tests.tensors import assert_same
from tests.tiny_model import make_tiny_model
from training import export, generate
from training.config.command_line import parse
from training.config.quantize import QuantizeConfig
from training.data.inputs import read_inputs
from training.errors import UserError
from training.inference.engines.openvino_engine import properties
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.machine.cpu import this_cpu
from training.machine.stack import resolve_stack
from training.method import Method
from training.methods.quantize import Quantize
from training.models.placed import placed
from training.openvino import quantized_unet
from training.openvino.record import read_record
from training.quantize import main
from training.ranks.launcher import Ranks
from training.storage.checkpoint import read_checkpoint
from training.storage.resume import start_or_resume

pytestmark = pytest.mark.openvino

MAIN = "training.quantize:main"
STEP = "training.loop.step:TrainingStep.__call__"
ALONE = Ranks("no launcher", 0, 1, 0, 1)

Flags = Callable[..., list[str]]


@pytest.fixture
def quantize_flags(tiny_model: Path, captioned: Path, latents: Path, tmp_path: Path) -> Flags:
    """The command line of a short run into a folder of tmp_path."""

    def build(folder: str, **changes: object) -> list[str]:
        return short_quantize(tiny_model, captioned, latents, tmp_path / folder, **changes)

    return build


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE)


def built(argv: list[str]) -> tuple[TrainingStep, Quantize]:
    """The training step of a run, as it is before its first step."""
    config, _ = parse(QuantizeConfig, argv, "test", "")
    stack = resolve_stack("upstream")
    inputs = read_inputs(Quantize, config, lambda text: None)
    config.output_dir.mkdir(exist_ok=True)
    record, _ = start_or_resume(inputs, stack, ALONE, lambda text: None)
    step = build_step(inputs, record, stack, ALONE, lambda text: None)
    assert isinstance(inputs.method, Quantize)
    return step, inputs.method


def gradients(step: TrainingStep) -> dict[str, torch.Tensor]:
    """Of the first samples."""
    (batch,) = step.data.batches([step.draws(0, 0)])
    step.losses(step.parameters, batch).sum().backward()
    found = {
        name: value.grad.clone()
        for name, value in step.parameters.items()
        if value.grad is not None
    }
    step.optimizer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_bit_identical_average_and_all(
    quantize_flags: Flags, ranks: int, tmp_path: Path
) -> None:
    changes = {"train_batch_size": 2 // ranks, "merge_tokens": 0.4}
    whole = run_ranks(quantize_flags("whole", **changes), tmp_path / "logs", ranks, main=MAIN)
    assert {p.code for p in whole} == {0}, whole[0].output
    cut = quantize_flags("cut", **changes)
    killed = run_ranks(cut, tmp_path / "logs", ranks, KillAt(STEP, 4), main=MAIN)
    assert killed[0].code < 0
    assert not (tmp_path / "cut" / FILE).exists()
    again = [*cut, "--resume_from_checkpoint=latest"]
    ended = run_ranks(again, tmp_path / "logs", ranks, main=MAIN)
    assert {p.code for p in ended} == {0}, ended[0].output
    assert "resuming from checkpoint-2" in ended[0].output
    assert_same(learned(tmp_path / "cut"), learned(tmp_path / "whole"))
    states = [read_checkpoint(tmp_path / run / "checkpoint-6") for run in ("cut", "whole")]
    for of_state in ("parameters", "exp_avg", "exp_avg_sq", "average"):
        assert_same(*(getattr(state, of_state) for state in states))


def test_two_ranks_learn_what_one_learns(quantize_flags: Flags, tmp_path: Path) -> None:
    one = quantize_flags("one", train_batch_size=1, gradient_accumulation_steps=2)
    assert main(one) == 0
    two = run_ranks(quantize_flags("two"), tmp_path / "logs", 2, main=MAIN)
    assert {p.code for p in two} == {0}, two[0].output
    found, wanted = learned(tmp_path / "two"), learned(tmp_path / "one")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_average_is_what_is_written(quantize_flags: Flags, tmp_path: Path) -> None:
    assert main(quantize_flags("run", max_train_steps=2)) == 0
    state = read_checkpoint(tmp_path / "run" / "checkpoint-2")
    written = learned(tmp_path / "run")
    away = 0.0
    for name, value in state.average.items():
        if ".__nncf" not in name:
            assert torch.equal(written[name.removeprefix("unet.")], value)
            away = max(away, float((value - state.parameters[name]).abs().max()))
    assert away > 0
    assert main(quantize_flags("none", use_ema="false", max_train_steps=2)) == 0
    assert read_checkpoint(tmp_path / "none" / "checkpoint-2").average == {}


def test_both_losses_have_their_weights(quantize_flags: Flags) -> None:
    losses = {}
    for task, teacher in ((1, 0), (0, 1), (2, 3)):
        step, _ = built(
            quantize_flags(
                f"{task}-{teacher}", task_loss_weight=task, distillation_loss_weight=teacher
            )
        )
        (batch,) = step.data.batches([step.draws(0, 0)])
        losses[task, teacher] = float(step.losses(step.parameters, batch).detach())
    assert losses[1, 0] > 0
    assert 0 < losses[0, 1] < losses[1, 0] / 10  # it says nearly what its teacher says
    assert losses[2, 3] == pytest.approx(2 * losses[1, 0] + 3 * losses[0, 1], rel=1e-5)


def test_training_comes_closer_to_the_teacher(quantize_flags: Flags) -> None:
    step, _ = built(
        quantize_flags("run", task_loss_weight=0, merge_tokens=0.75, train_batch_size=4)
    )
    fixed = step.draws.evaluation(8)
    before = step.evaluate(fixed)
    for number in range(20):
        step(number, 1e-5, lambda: False)
    with placed(step.parameters, step.learned):
        after = step.evaluate(fixed)
    assert after < 0.95 * before


def test_checkpointed_gradients_are_the_same(quantize_flags: Flags) -> None:
    plain, _ = built(quantize_flags("plain", merge_tokens=0.4))
    less, method = built(quantize_flags("less", merge_tokens=0.4, gradient_checkpointing="true"))
    assert method.student.down_blocks[0].gradient_checkpointing
    wanted, found = gradients(plain), gradients(less)
    assert len(wanted) == len(plain.parameters)
    assert_same(found, wanted)


def test_the_loss_is_a_function_of_its_arguments(quantize_flags: Flags) -> None:
    step, _ = built(quantize_flags("run"))
    (batch,) = step.data.batches([step.draws(0, 0)])
    others = {
        name: torch.nn.Parameter(value.detach() * 1.05) for name, value in step.parameters.items()
    }
    told = step.losses(others, batch).detach()
    with placed(step.parameters, others):
        assert torch.equal(step.losses(step.parameters, batch).detach(), told)
    assert not torch.equal(step.losses(step.parameters, batch).detach(), told)


def test_how_far_it_has_moved_is_that_of_other_methods(quantize_flags: Flags) -> None:
    step, method = built(quantize_flags("run"))
    values = {name: value.detach() * 1.05 for name, value in step.parameters.items()}
    assert method.moved(values) == pytest.approx(Method.moved(method, values), rel=1e-4)


@pytest.fixture(scope="module")
def run(
    tiny_model: Path, captioned: Path, latents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run with merged tokens."""
    folder = tmp_path_factory.mktemp("quantized") / "run"
    changes = {"merge_tokens": 0.4, "max_train_steps": 2, "validation_prompt": "a red cat"}
    more = {"num_validation_images": 1, "num_inference_steps": 2, "save_as_full_pipeline": "true"}
    assert main(short_quantize(tiny_model, captioned, latents, folder, **changes, **more)) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """Its export."""
    assert export.main([str(run), "--output_dir", str(run / "openvino")]) == 0
    return run / "openvino"


def predictions(*unets: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> list[torch.Tensor]:
    """What each says of the same latents and text."""
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "sample": torch.randn(2, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([400]),
        "encoder_hidden_states": torch.randn(2, 24, 32, generator=generator),
    }
    with torch.no_grad():
        return [unet(inputs) for unet in unets]


def test_openvino_says_what_the_trained_unet_says_and_computes_in_int8(
    run: Path, exported: Path, tiny_model: Path
) -> None:
    from optimum.intel import OVStableDiffusionPipeline

    base = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    student, merged = quantized_unet.load(run / FILE, copy.deepcopy(base))
    assert merged == 0.4
    pipeline = OVStableDiffusionPipeline.from_pretrained(
        exported, ov_config=properties("float32", "qat", this_cpu()), dynamic_shapes=False
    )
    graph = pipeline.unet.model
    kinds = [op.get_type_name() for op in graph.get_ops()]
    stored = [
        op.get_element_type().get_type_name()
        for op in graph.get_ops()
        if op.get_type_name() == "Constant"
    ]
    assert kinds.count("FakeQuantize") > 20
    assert stored.count("i8") + stored.count("u8") > 20
    left = 16 * 16 - int(16 * 16 * 0.4)
    shapes = [port.get_partial_shape() for op in graph.get_ops() for port in op.outputs()]
    assert any(left in list(shape.to_shape()) for shape in shapes if shape.is_static)
    pipeline.unet.compile()

    def by_openvino(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        given = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(np.array(pipeline.unet.request(given)[0]))

    torchs, ours, precise = predictions(
        lambda inputs: student(**inputs).sample, by_openvino, lambda inputs: base(**inputs).sample
    )
    assert float((ours - torchs).norm() / torchs.norm()) < 0.05
    assert 1e-4 < float((torchs - precise).norm() / precise.norm()) < 1


def test_the_export_is_a_quarter_and_generate_draws_with_it(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(exported)
    assert (record.weights, record.merge_tokens) == ("qat", 0.4)
    size = (exported / "unet" / "openvino_model.bin").stat().st_size
    assert size < 0.4 * (run / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size

    def drawn(*flags: str) -> Any:
        words = [str(run), "--prompt", "a red cat", "--num_inference_steps", "2", *flags]
        assert generate.main([*words, "--output_dir", str(tmp_path)]) == 0, capsys.readouterr().err
        (path,) = json.loads(capsys.readouterr().out)
        with Image.open(path) as picture:
            return np.asarray(picture).astype(int)

    ours = drawn("--engine", "openvino")
    assert np.abs(ours - drawn()).mean() < 8
    assert np.abs(ours - drawn("--seed", "1")).mean() > 8


def test_the_whole_pipeline_has_rounded_weights(run: Path, tiny_model: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(run / "unet")
    weight = unet.mid_block.resnets[0].conv1.weight
    levels = [len(channel.unique()) for channel in weight.detach().flatten(1)]
    assert max(levels) <= 255
    base = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    assert torch.allclose(weight, base.mid_block.resnets[0].conv1.weight, atol=5e-3)


def test_what_is_refused_at_the_start(
    quantize_flags: Flags, captioned: Path, latents: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refusal(argv: list[str]) -> str:
        assert main(argv) == 2
        return capsys.readouterr().err

    assert "calibration_samples" in refusal(quantize_flags("a", calibration_samples=0))
    both = {"task_loss_weight": 0, "distillation_loss_weight": 0}
    assert "nothing would be learned" in refusal(quantize_flags("b", **both))
    assert "merge_tokens" in refusal(quantize_flags("c", merge_tokens=0.8))
    other = make_tiny_model(tmp_path / "other")
    config = json.loads((other / "unet" / "config.json").read_text())
    config["down_block_types"][1] = "ResnetDownsampleBlock2D"
    (other / "unet" / "config.json").write_text(json.dumps(config))
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(other / "unet"))
    unet.save_pretrained(other / "unet")
    said = refusal(short_quantize(other, captioned, latents, tmp_path / "d"))
    assert "the UNet's down_blocks.1 is a ResnetDownsampleBlock2D" in said


def test_nothing_to_merge_is_said_before_the_run_is_recorded(
    captioned: Path, latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_model(tmp_path / "other")
    plain = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    config = UNet2DConditionModel.load_config(other / "unet")
    UNet2DConditionModel.from_config({**config, **plain}).save_pretrained(other / "unet")
    argv = short_quantize(other, captioned, latents, tmp_path / "run", merge_tokens=0.4)
    assert main(argv) == 2
    assert "--merge_tokens 0.4: this UNet has no attention" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_block_of_unknown_parts_is_named(tiny_model: Path) -> None:
    config = UNet2DConditionModel.load_config(tiny_model / "unet")
    unet = UNet2DConditionModel.from_config({**config, "dual_cross_attention": True})
    with pytest.raises(UserError, match=r"down_blocks\.\d\.attentions\.0 is a DualTransformer2D"):
        quantized_unet.refuse_other_blocks(unet)


def test_nothing_to_calibrate_on_is_said(tiny_model: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    with pytest.raises(UserError, match="the calibration set is empty"):
        quantized_unet.quantize(unet, [], 0)


def test_another_base_model_is_refused(
    quantize_flags: Flags, run: Path, tiny_model: Path, captioned: Path, latents: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    with torch.no_grad():
        unet.conv_in.bias += 0.1
    unet.save_pretrained(other / "unet")
    assert main(quantize_flags("run", max_train_steps=2)) == 0
    capsys.readouterr()
    resumed = quantize_flags("run", resume_from_checkpoint="latest")
    changed = [word.replace(str(tiny_model), str(other)) for word in resumed]
    assert main(changed) == 2
    said = capsys.readouterr().err
    assert said.count("as when the run started") == 1
    assert "pretrained_model_name_or_path: not the same model as when the run started" in said
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    own = [
        word.replace(str(tiny_model), str(base))
        for word in quantize_flags("own", max_train_steps=1)
    ]
    assert main(own) == 0
    shutil.copytree(other / "unet", base / "unet", dirs_exist_ok=True)
    capsys.readouterr()
    assert export.main([str(tmp_path / "own"), "--output_dir", str(tmp_path / "exported")]) == 2
    said = capsys.readouterr().err
    assert "quantized from another base model" in said
    assert "1 of 3" not in said  # which takes minutes at full size
    assert not (tmp_path / "exported").exists()
    with pytest.raises(UserError, match="quantized from another base model"):
        quantized_unet.load(run / FILE, unet)
    (tmp_path / "torn.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is no quantized UNet"):
        quantized_unet.load(tmp_path / "torn.safetensors", unet)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--weights", "int8"], "--weights: "),
        (["--merge_tokens", "0.2"], "--merge_tokens: "),
        (["--dynamic"], "needs a fixed shape"),
        (["--lora", "none.safetensors"], "--lora"),
    ],
)
def test_what_the_run_has_decided_is_not_asked_of_the_export(
    run: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(run), "--output_dir", str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
