"""Every machine keeps the checkpoints on its own disk: which do, and what they are good for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Finished, KillAt, run_ranks
from tests.training_fixtures import Flags
from training.storage.run_directory import read_config

Machines = list[Path]


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    """Three machines' disks, as far as a run folder is concerned."""
    return [tmp_path / f"machine-{number}" / "run" for number in range(3)]


def run_on(
    folders: Machines, argv: list[str], logs: Path, per_machine: int = 1, **more: object
) -> list[Finished]:
    """One run whose `output_dir` is another folder on each machine."""
    return run_ranks(
        argv,
        logs,
        len(folders) * per_machine,
        per_machine=per_machine,
        own=lambda machine: [f"--output_dir={folders[machine]}"],
        **more,  # type: ignore[arg-type]
    )


def files(folder: Path) -> dict[str, bytes]:
    """What a machine keeps of a run for others to go on with, by name."""
    kept = [*folder.glob("checkpoint-*/*"), *folder.glob("learned_embeds-steps-*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def codes(finished: list[Finished]) -> list[int]:
    return [process.code for process in finished]


def test_each_machines_first_rank_keeps_the_same_checkpoints(
    flags: Flags, machines: Machines, tmp_path: Path
) -> None:
    finished = run_on(machines[:2], flags(), tmp_path / "logs", per_machine=2)
    assert codes(finished) == [0] * 4, finished[0].output
    first, second = machines[:2]
    assert set(files(first)) == {
        *(f"checkpoint-{n}/state.json" for n in (2, 4, 6)),
        *(f"checkpoint-{n}/state.safetensors" for n in (2, 4, 6)),
        *(f"learned_embeds-steps-{n}.safetensors" for n in (2, 4, 6)),
    }
    assert files(second) == files(first)
    assert read_config(second)[1] == read_config(first)[1]
    assert sorted(path.name for path in second.iterdir()) == sorted(
        [".lock", "checkpoint-2", "checkpoint-4", "checkpoint-6", "config.toml"]
        + [f"learned_embeds-steps-{n}.safetensors" for n in (2, 4, 6)]
    )


def test_a_shared_folder_is_written_once(flags: Flags, machines: Machines, tmp_path: Path) -> None:
    """Machines 0 and 1 see one folder, machine 2 another."""
    shared, own = machines[0], machines[2]
    finished = run_on(
        [shared, shared, own], flags(), tmp_path / "logs", main=f"{__name__}:counting_writes"
    )
    assert codes(finished) == [0] * 3, finished[0].output
    writers = [process.output.count("wrote checkpoint") for process in finished]
    assert writers == [3, 0, 3]
    assert files(own) == files(shared)
    assert not list(shared.glob(".*.partial"))


def counting_writes(argv: list[str]) -> int:
    """`main`, saying so whenever this rank writes a checkpoint."""
    from training import atomic_files
    from training.textual_inversion import main

    original = atomic_files.write_directory

    def said(path: Path, write: Callable[[Path], object]) -> None:
        print(f"wrote {path.name}", flush=True)
        original(path, write)

    atomic_files.write_directory = said
    return main(argv)


def test_with_the_first_machine_lost_another_ones_copy_goes_on_bit_for_bit(
    flags: Flags, precision: str, machines: Machines, tmp_path: Path
) -> None:
    whole, folders = [tmp_path / "whole" / str(n) for n in range(2)], machines[:2]
    argv = flags(mixed_precision=precision)
    assert codes(run_on(whole, argv, tmp_path / "logs")) == [0, 0]
    run_on(
        folders, argv, tmp_path / "logs", hook=KillAt("training.loop.step:TrainingStep.__call__", 4)
    )
    shutil.rmtree(folders[0])
    folders[0].mkdir()
    for name in ("config.toml", "checkpoint-2"):  # as `fab train --resume` brings them
        source = folders[1] / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folders[0] / name)
    resumed = run_on(folders, [*argv, "--resume_from_checkpoint=latest"], tmp_path / "logs")
    assert codes(resumed) == [0, 0], resumed[0].output
    assert "resuming from checkpoint-2" in resumed[0].output
    name = "learned_embeds.safetensors"
    assert (folders[0] / name).read_bytes() == (whole[0] / name).read_bytes()
    assert (
        files(folders[1])["checkpoint-6/state.safetensors"]
        == (files(whole[0])["checkpoint-6/state.safetensors"])
    )


def test_the_last_copy_of_a_run_is_not_begun_over(
    flags: Flags, machines: Machines, tmp_path: Path
) -> None:
    """A new first machine, `latest` asked for, and nothing brought there."""
    folders = machines[:2]
    assert codes(run_on(folders, flags(), tmp_path / "logs")) == [0, 0]
    kept = files(folders[1])
    shutil.rmtree(folders[0])
    for changes in ({"resume_from_checkpoint": "latest"}, {}):
        refused = run_on(folders, flags(**changes), tmp_path / "logs")
        assert codes(refused) == [2, 2]
        assert f"output_dir {folders[1]}" in refused[0].output
        assert files(folders[1]) == kept
        assert not (folders[0] / "config.toml").exists()
    begun = run_on(folders, [*flags(), "--overwrite_output_dir"], tmp_path / "logs")
    assert codes(begun) == [0, 0], begun[0].output


def test_what_another_run_left_on_a_machine_is_not_taken_for_this_ones(
    flags: Flags, machines: Machines, tmp_path: Path
) -> None:
    folders = machines[:2]
    old = flags(seed=9, max_train_steps=8, output_dir=folders[1])
    assert codes(run_ranks(old, tmp_path / "logs")) == [0]
    (kept_file := folders[1] / "mine.txt").write_text("a person's own")
    cut = run_on(
        folders,
        [*flags(), "--overwrite_output_dir"],
        tmp_path / "logs",
        hook=KillAt("training.loop.step:TrainingStep.__call__", 4),
    )
    assert cut[0].code == -9
    assert sorted(path.name for path in folders[1].glob("checkpoint-*")) == ["checkpoint-2"]
    assert kept_file.exists()
    assert read_config(folders[1])[1].seed == 3


def test_a_machine_whose_folder_is_being_written_is_named(
    flags: Flags, machines: Machines, tmp_path: Path
) -> None:
    from training.storage.run_directory import locked

    with locked(machines[1]):
        finished = run_on(machines[:2], flags(), tmp_path / "logs")
    assert codes(finished) == [2, 2]
    assert f"rank 1: output_dir {machines[1]}: another live process" in finished[0].output
