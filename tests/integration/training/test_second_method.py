"""Another method than textual inversion needs nothing of loop, storage or outputs changed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.bias_method import BIAS, layer
from tests.bias_method import main as train_bias
from tests.processes import KillAt, run_ranks
from tests.training_fixtures import Flags
from training.models.loading import Models
from training.textual_inversion import main as train_word

MAIN = "tests.bias_method:main"
STEP = "training.loop.step:TrainingStep.__call__"


@pytest.fixture
def bias_flags(flags: Flags, tmp_path: Path) -> Flags:
    """The command line of a short run of the other method into a folder of tmp_path."""

    def build(folder: str, **changes: object) -> list[str]:
        no_word = {"placeholder_token": None, "initializer_token": None}
        return flags(output_dir=tmp_path / folder, **no_word, **changes)

    return build


def bias(folder: Path) -> torch.Tensor:
    return load_file(folder / "bias.safetensors")[BIAS]


def test_killed_on_two_ranks_and_resumed_is_bit_identical(
    bias_flags: Flags, precision: str, tmp_path: Path
) -> None:
    drawing = {"validation_prompt": "a toy", "num_validation_images": 1, "num_inference_steps": 1}
    whole = bias_flags("whole", mixed_precision=precision, validation_steps=6, **drawing)
    assert [p.code for p in run_ranks(whole, tmp_path / "logs", 2, main=MAIN)] == [0, 0]
    cut = bias_flags("cut", mixed_precision=precision)
    killed = run_ranks(cut, tmp_path / "logs", 2, KillAt(STEP, 4), main=MAIN)
    assert killed[0].code < 0
    assert not (tmp_path / "cut" / "bias.safetensors").exists()
    first, second = run_ranks(
        [*cut, "--resume_from_checkpoint=latest"], tmp_path / "logs", 2, main=MAIN
    )
    assert [first.code, second.code] == [0, 0], first.output
    assert "resuming from checkpoint-2" in first.output
    assert torch.equal(bias(tmp_path / "cut"), bias(tmp_path / "whole"))
    record = tomllib.loads((tmp_path / "cut" / "config.toml").read_text())["run"]
    assert record["method"] == "bias"
    files = {path.name for path in (tmp_path / "whole").iterdir() if not path.name.startswith(".")}
    steps = {f"{name}-{n}{end}" for n in (2, 4, 6)
             for name, end in (("bias-steps", ".safetensors"), ("checkpoint", ""))}  # fmt: skip
    others = {"config.toml", "events.jsonl", "loss.png", "report.html", "samples"}
    assert files == {"bias.safetensors", *steps, *others}


def test_it_has_learned_and_is_in_the_whole_pipeline(
    bias_flags: Flags, tiny_model: Path, tmp_path: Path
) -> None:
    assert train_bias(bias_flags("run", save_as_full_pipeline=True)) == 0
    learned = bias(tmp_path / "run")
    base = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    saved = StableDiffusionPipeline.from_pretrained(tmp_path / "run", safety_checker=None)
    start, end = (
        layer(Models(p.tokenizer, p.scheduler, p.text_encoder, p.vae, p.unet)).bias
        for p in (base, saved)
    )
    assert torch.equal(end, learned)
    assert float((learned - start).norm()) > 1e-3


def test_a_run_of_one_method_is_not_gone_on_with_by_another(
    flags: Flags, bias_flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_bias(bias_flags("run", max_train_steps=2)) == 0
    assert train_word(flags(resume_from_checkpoint="latest")) == 2
    assert "holds a run of bias, which textual_inversion cannot go on" in capsys.readouterr().err
    assert train_word(flags(overwrite_output_dir=True, max_train_steps=2)) == 0
    assert not list((tmp_path / "run").glob("bias*"))
