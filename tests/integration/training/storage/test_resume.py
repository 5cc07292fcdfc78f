"""A killed run, resumed, ends with the very bits of a run that was never interrupted."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from tests.processes import KillAt, SignalAt, run_ranks
from tests.training_fixtures import Flags
from training.loop.build_step import build_step
from training.models import frozen
from training.models.files import digests
from training.textual_inversion import main

STEP = "training.loop.step:TrainingStep.__call__"
MICRO_BATCHES = 4  # a step, over all ranks


def moments(size: int) -> dict[str, KillAt]:
    """Where to kill the first of `size` ranks, all after the first checkpoint (step 2)."""
    return {
        "between steps": KillAt("training.loop.step:TrainingStep.__call__", 4),
        "mid-accumulation": KillAt(
            "accelerate:Accelerator.backward", 3 * MICRO_BATCHES // size + 2
        ),
        "checkpoint's files not written": KillAt("training.storage.checkpoint:State.write", 2),
        "checkpoint's manifest not written": KillAt("pathlib:Path.write_text", 3),
        "checkpoint written and not renamed": KillAt("training.atomic_files:os.replace", 5),
    }


def rows(folder: Path) -> bytes:
    tensor = load_file(folder / "learned_embeds.safetensors")["<new>"]
    return bytes(tensor.numpy().tobytes())


@pytest.fixture
def accumulating(flags: Flags, precision: str) -> Flags:
    """Runs of two micro-batches a rank, on the global batch of four whatever the ranks."""

    def build(size: int = 1, **changes: object) -> list[str]:
        return flags(
            gradient_accumulation_steps=MICRO_BATCHES // size,
            evaluation_steps=6,
            mixed_precision=precision,
            **changes,
        )

    return build


@pytest.mark.parametrize("size", [1, 2])
def test_killed_at_any_moment_and_resumed_is_bit_identical(
    accumulating: Flags, tmp_path: Path, size: int
) -> None:
    whole = accumulating(size, output_dir=tmp_path / "whole")
    assert [p.code for p in run_ranks(whole, tmp_path / "logs", size)] == [0] * size
    wanted = rows(tmp_path / "whole")
    for name, moment in moments(size).items():
        folder = tmp_path / name.replace(" ", "-")
        argv = accumulating(size, output_dir=folder)
        killed = run_ranks(argv, tmp_path / "logs", size, moment)
        assert killed[0].code == -9, f"{name}: {killed[0].output}"
        assert all(process.code != 0 for process in killed), name
        assert not (folder / "learned_embeds.safetensors").exists(), name
        resumed = run_ranks([*argv, "--resume_from_checkpoint=latest"], tmp_path / "logs", size)
        assert [p.code for p in resumed] == [0] * size, f"{name}: {resumed[0].output}"
        assert rows(folder) == wanted, name


def test_a_run_is_gone_on_with_by_its_folder_alone(flags: Flags, tmp_path: Path) -> None:
    run_ranks(flags(output_dir=tmp_path / "whole"), tmp_path / "logs")
    (cut,) = run_ranks(flags(), tmp_path / "logs", 1, KillAt(STEP, 5))
    assert cut.code == -9
    (resumed,) = run_ranks(["--resume", str(tmp_path / "run")], tmp_path / "logs")
    assert resumed.code == 0, resumed.output
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_remembered_digest_that_is_wrong_does_not_stop_a_run(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(flags(max_train_steps=4)) == 0
    monkeypatch.setattr(digests, "remembered", lambda *_: "of other weights")
    assert main(flags(resume_from_checkpoint="latest")) == 0
    assert (tmp_path / "run" / "checkpoint-6").is_dir()


def test_killed_again_and_again_is_bit_identical(accumulating: Flags, tmp_path: Path) -> None:
    run_ranks(accumulating(output_dir=tmp_path / "whole"), tmp_path / "logs")
    argv = accumulating(output_dir=tmp_path / "cut", resume_from_checkpoint="latest")
    for count in (3, 2, 3):
        (killed,) = run_ranks(
            argv, tmp_path / "logs", 1, KillAt("training.loop.step:TrainingStep.__call__", count)
        )
        assert killed.code == -9
    (last,) = run_ranks(argv, tmp_path / "logs")
    assert last.code == 0
    assert "resuming from checkpoint-4" in last.output
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_another_number_of_ranks_carries_the_run_on(accumulating: Flags, tmp_path: Path) -> None:
    """The global batch, learning rate and sample order stay those of the start."""
    whole = accumulating(2, output_dir=tmp_path / "whole", scale_lr=True)
    run_ranks(whole, tmp_path / "logs", 2)
    cut = accumulating(2, output_dir=tmp_path / "cut", scale_lr=True)
    run_ranks(cut, tmp_path / "logs", 2, KillAt("training.loop.step:TrainingStep.__call__", 4))
    for size in (1, 3):
        (first, *_) = run_ranks(
            [*cut, "--resume_from_checkpoint=latest", f"--max_train_steps={size + 4}"],
            tmp_path / "logs",
            size,
        )
        assert first.code == 0, first.output
    (first,) = run_ranks([*cut, "--resume_from_checkpoint=latest"], tmp_path / "logs")
    assert first.code == 0, first.output
    wanted = load_file(tmp_path / "whole" / "learned_embeds-steps-6.safetensors")["<new>"]
    found = load_file(tmp_path / "cut" / "learned_embeds-steps-6.safetensors")["<new>"]
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_a_torn_checkpoint_is_named_and_passed_over(accumulating: Flags, tmp_path: Path) -> None:
    run_ranks(accumulating(output_dir=tmp_path / "run"), tmp_path / "logs")
    wanted = rows(tmp_path / "run")
    torn = tmp_path / "run" / "checkpoint-6" / "state.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    (resumed,) = run_ranks(
        accumulating(output_dir=tmp_path / "run", resume_from_checkpoint="latest"),
        tmp_path / "logs",
    )
    assert resumed.code == 0, resumed.output
    assert "skipped checkpoint-6: torn" in resumed.output
    assert "resuming from checkpoint-4" in resumed.output
    assert rows(tmp_path / "run") == wanted


def test_a_decaying_schedule_is_restated_with_a_notice(flags: Flags, tmp_path: Path) -> None:
    run_ranks(flags(lr_scheduler="linear"), tmp_path / "logs")
    (longer,) = run_ranks(
        flags(lr_scheduler="linear", max_train_steps=8, resume_from_checkpoint="latest"),
        tmp_path / "logs",
    )
    assert longer.code == 0, longer.output
    assert "the linear schedule is recomputed: it ends at step 8" in longer.output
    assert (tmp_path / "run" / "learned_embeds-steps-8.safetensors").exists()


def test_sigterm_ends_the_run_with_a_checkpoint(accumulating: Flags, tmp_path: Path) -> None:
    whole = run_ranks(
        accumulating(output_dir=tmp_path / "whole", max_train_steps=7), tmp_path / "logs"
    )
    assert whole[0].code == 0
    (cut,) = run_ranks(
        accumulating(output_dir=tmp_path / "one", max_train_steps=7),
        tmp_path / "logs",
        1,
        SignalAt(STEP, 3),
    )
    assert cut.code == 128 + 15, cut.output
    assert "stopped at step 3 with a checkpoint" in cut.output
    (resumed,) = run_ranks(
        accumulating(
            output_dir=tmp_path / "one", max_train_steps=7, resume_from_checkpoint="latest"
        ),
        tmp_path / "logs",
    )
    assert resumed.code == 0, resumed.output
    assert "resuming from checkpoint-3" in resumed.output
    assert rows(tmp_path / "one") == rows(tmp_path / "whole")


def test_sigterm_to_one_rank_ends_them_all_at_the_same_step(flags: Flags, tmp_path: Path) -> None:
    stopped = run_ranks(flags(), tmp_path / "logs", 2, SignalAt(STEP, 3, rank=1))
    assert [process.code for process in stopped] == [128 + 15] * 2, stopped[0].output
    assert (tmp_path / "run" / "checkpoint-3").is_dir()


@pytest.fixture
def begun(flags: Flags, tiny_model: Path, tmp_path: Path) -> list[str]:
    """The command line that goes on with a run of two steps, on a copy of the model to change."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    argv = flags(pretrained_model_name_or_path=model)
    assert main([*argv, "--max_train_steps=2"]) == 0
    return [*argv, "--resume_from_checkpoint=latest"]


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction",
         'scheduler.prediction_type was "epsilon" then, "v_prediction" now'),
        ("scheduler/scheduler_config.json", "beta_end", 0.012,
         "scheduler.beta_end was 0.02 then, 0.012 now"),
        ("vae/config.json", "scaling_factor", 0.5,
         "vae.scaling_factor was the default then, 0.5 now"),
        ("unet/config.json", "attention_head_dim", 2,
         "unet.attention_head_dim was 4 then, 2 now"),
        ("text_encoder/config.json", "hidden_act", "gelu",
         'text_encoder.hidden_act was "quick_gelu" then, "gelu" now'),
    ],
)  # fmt: skip
def test_settings_of_the_model_that_differ_are_named(
    file: str, key: str, value: object, message: str, begun: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    capsys.readouterr()
    assert main(begun) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n  - ") == 1
    assert f"  - pretrained_model_name_or_path: its {message}" in printed


def test_settings_for_drawing_may_differ(begun: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep_spacing": "trailing"}))
    assert main(begun) == 0


@pytest.mark.parametrize("change", ["merges", "length", "words"])
def test_another_tokenizer_is_refused_by_name(
    change: str, begun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tmp_path / "model" / "tokenizer", tmp_path / "other")
    tokenizer = CLIPTokenizer.from_pretrained(other)
    rules = json.loads((other / "tokenizer.json").read_text())
    if change == "length":
        tokenizer.model_max_length -= 1
        tokenizer.save_pretrained(other)
    elif change == "merges":
        rules["model"]["merges"].reverse()
        (other / "tokenizer.json").write_text(json.dumps(rules))
    else:
        words = rules["model"]["vocab"]
        words["a</w>"], words["b</w>"] = words["b</w>"], words["a</w>"]
        (other / "tokenizer.json").write_text(json.dumps(rules))
    capsys.readouterr()
    assert main([*begun, f"--tokenizer_name={other}"]) == 2
    printed = capsys.readouterr().err
    assert "tokenizer_name: not the same tokenizer as when the run started" in printed
    same = shutil.copytree(tmp_path / "model" / "tokenizer", tmp_path / "same")
    assert main([*begun, f"--tokenizer_name={same}"]) == 0


def test_a_run_of_before_these_were_noted_goes_on(begun: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = tomllib.loads((folder / "config.toml").read_text())
    for new in ("tokenizer", "settings"):
        del values["run"][new]
    (folder / "config.toml").write_text(tomli_w.dumps(values))
    manifest = json.loads((folder / "checkpoint-2" / "state.json").read_text())
    manifest["run"] = values["run"]
    (folder / "checkpoint-2" / "state.json").write_text(json.dumps(manifest))
    assert main(begun) == 0
    # The cluster's programs take a checkpoint for this run's where both records are the same.
    newest = json.loads((folder / "checkpoint-6" / "state.json").read_text())
    assert newest["run"] == tomllib.loads((folder / "config.toml").read_text())["run"]
    whole = [*begun[:-1], f"--output_dir={tmp_path / 'whole'}"]
    assert main(whole) == 0
    assert rows(folder) == rows(tmp_path / "whole")
    newest = json.loads((tmp_path / "whole" / "checkpoint-6" / "state.json").read_text())
    noted = tomllib.loads((tmp_path / "whole" / "config.toml").read_text())["run"]
    assert newest["run"] == noted
    assert noted["tokenizer"]


def test_a_run_whose_weights_were_read_in_float32_first_goes_on(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs in bf16 did at first: weights read in bf16 are other ones, to their digest."""
    argv = flags(mixed_precision="bf16", stack="upstream")
    with monkeypatch.context() as before:
        before.setattr(frozen, "loading_dtype", lambda *_: torch.float32)
        assert main([*argv, "--max_train_steps=2"]) == 0
    assert "loaded_as" not in record(tmp_path / "run")
    assert main([*argv, "--resume_from_checkpoint=latest"]) == 0
    whole = flags(mixed_precision="bf16", stack="upstream", output_dir=tmp_path / "whole")
    assert main(whole) == 0
    assert record(tmp_path / "whole")["loaded_as"] == "bfloat16"
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "config.toml").read_text())["run"]
    return found


@pytest.mark.parametrize("prompts", [[], ["a <new>"]])
def test_models_that_nothing_computes_with_take_no_memory(
    prompts: list[str], flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    def build(inputs: Any, *others: Any) -> Any:
        steps.append((inputs, build_step(inputs, *others)))
        return steps[-1][1]

    monkeypatch.setattr("training.run.build_step", build)
    drawn = [f"--validation_prompt={prompt}" for prompt in prompts]
    assert main([*flags(max_train_steps=1), *drawn]) == 0
    models = steps[0][0].models
    assert (models.vae.device.type == "meta") == (not prompts)
    assert models.text_encoder.device.type == "cpu"  # the word's rows are trained through it
