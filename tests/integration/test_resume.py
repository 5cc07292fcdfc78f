"""A killed run, resumed, ends with the very bits of a run that was never interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes import KillAt, SignalAt, run_ranks
from tests.training_fixtures import Flags

STEP = "training.step:TrainingStep.__call__"
MICRO_BATCHES = 4  # a step, over all ranks


def moments(size: int) -> dict[str, KillAt]:
    """Where to kill the first of `size` ranks, all after the first checkpoint (step 2)."""
    return {
        "between steps": KillAt("training.step:TrainingStep.__call__", 4),
        "mid-accumulation": KillAt(
            "accelerate:Accelerator.backward", 3 * MICRO_BATCHES // size + 2
        ),
        "checkpoint's files not written": KillAt("pathlib:Path.write_bytes", 2),
        "checkpoint's manifest not written": KillAt("pathlib:Path.write_text", 3),
        "checkpoint written and not renamed": KillAt("training.durable:os.replace", 5),
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


def test_killed_again_and_again_is_bit_identical(accumulating: Flags, tmp_path: Path) -> None:
    run_ranks(accumulating(output_dir=tmp_path / "whole"), tmp_path / "logs")
    argv = accumulating(output_dir=tmp_path / "cut", resume_from_checkpoint="latest")
    for count in (3, 2, 3):
        (killed,) = run_ranks(
            argv, tmp_path / "logs", 1, KillAt("training.step:TrainingStep.__call__", count)
        )
        assert killed.code == -9
    (last,) = run_ranks(argv, tmp_path / "logs")
    assert last.code == 0
    assert "going on from checkpoint-4" in last.output
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_another_number_of_ranks_carries_the_run_on(accumulating: Flags, tmp_path: Path) -> None:
    """The global batch, learning rate and sample order stay those of the start."""
    whole = accumulating(2, output_dir=tmp_path / "whole", scale_lr=True)
    run_ranks(whole, tmp_path / "logs", 2)
    cut = accumulating(2, output_dir=tmp_path / "cut", scale_lr=True)
    run_ranks(cut, tmp_path / "logs", 2, KillAt("training.step:TrainingStep.__call__", 4))
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
    assert "passed over checkpoint-6: torn" in resumed.output
    assert "going on from checkpoint-4" in resumed.output
    assert rows(tmp_path / "run") == wanted


def test_a_decaying_schedule_is_restated_with_a_notice(flags: Flags, tmp_path: Path) -> None:
    run_ranks(flags(lr_scheduler="linear"), tmp_path / "logs")
    (longer,) = run_ranks(
        flags(lr_scheduler="linear", max_train_steps=8, resume_from_checkpoint="latest"),
        tmp_path / "logs",
    )
    assert longer.code == 0, longer.output
    assert "the linear schedule is restated: it ends at step 8" in longer.output
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
    assert "going on from checkpoint-3" in resumed.output
    assert rows(tmp_path / "one") == rows(tmp_path / "whole")


def test_sigterm_to_one_rank_ends_them_all_at_the_same_step(flags: Flags, tmp_path: Path) -> None:
    stopped = run_ranks(flags(), tmp_path / "logs", 2, SignalAt(STEP, 3, rank=1))
    assert [process.code for process in stopped] == [128 + 15] * 2, stopped[0].output
    assert (tmp_path / "run" / "checkpoint-3").is_dir()
