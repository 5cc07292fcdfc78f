"""Checkpoints are whole or named as torn; the newest whole one is gone on from."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from training.errors import UserError
from training.storage.checkpoint import (
    MANIFEST_FILE,
    STATE_FILE,
    State,
    find_checkpoint,
    list_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from training.storage.run_directory import RunRecord

RECORD = RunRecord(
    seed=1, global_batch=2, learning_rate=1e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip


def state(step: int) -> State:
    generator = torch.Generator().manual_seed(step)
    return State(step, *({"rows": torch.randn(2, 8, generator=generator)} for _ in range(3)))


def save(folder: Path, *steps: int, limit: int | None = None) -> None:
    for step in steps:
        save_checkpoint(folder, state(step), RECORD, limit)


def same(found: State | None, wanted: State) -> bool:
    return (
        found is not None
        and found.step == wanted.step
        and all(
            there.keys() == here.keys() and all(torch.equal(there[k], here[k]) for k in here)
            for there, here in (
                (found.parameters, wanted.parameters),
                (found.exp_avg, wanted.exp_avg),
                (found.exp_avg_sq, wanted.exp_avg_sq),
            )
        )
    )


def outcome(path: Path) -> State | str:
    """The state, or in what way it is torn."""
    try:
        return read_checkpoint(path)
    except UserError as error:
        return str(error)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_what_is_saved_is_read_bit_for_bit(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(7), RECORD, None)
    assert path == tmp_path / "checkpoint-7"
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST_FILE, STATE_FILE]
    assert same(read_checkpoint(path), state(7))
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    assert manifest["run"] == RECORD.model_dump()


def test_a_parameter_with_a_gradient_is_saved(tmp_path: Path) -> None:
    rows = torch.nn.Parameter(torch.ones(4, 2).T)
    path = save_checkpoint(
        tmp_path, State(1, *({"rows": rows * n} for n in (1, 2, 3))), RECORD, None
    )
    assert torch.equal(read_checkpoint(path).parameters["rows"], torch.ones(2, 4))


def test_several_parameters_are_saved_by_name(tmp_path: Path) -> None:
    several = State(
        3, *({"down": torch.full((2, 4), n), "up": torch.full((4,), -n)} for n in (1.0, 2.0, 3.0))
    )
    assert same(read_checkpoint(save_checkpoint(tmp_path, several, RECORD, None)), several)


def test_the_file_of_one_parameter_is_that_of_before_there_were_others(tmp_path: Path) -> None:
    rows, exp_avg, exp_avg_sq = (torch.full((2, 4), n) for n in (1.0, 2.0, 3.0))
    wanted = State(5, {"rows": rows}, {"rows": exp_avg}, {"rows": exp_avg_sq})
    path = save_checkpoint(tmp_path, wanted, RECORD, None)
    before = {"rows": rows, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    assert (path / STATE_FILE).read_bytes() == safetensors.torch.save(before)
    assert same(read_checkpoint(path), wanted)


def test_the_file_is_what_the_other_ranks_are_sent_and_can_be_read_by_others(
    tmp_path: Path,
) -> None:
    mask = os.umask(0o022)
    try:
        written = save_checkpoint(tmp_path, state(7), RECORD, None) / STATE_FILE
    finally:
        os.umask(mask)
    assert written.read_bytes() == safetensors.torch.save(state(7).tensors())
    assert stat.S_IMODE(written.stat().st_mode) == 0o644


def test_checkpoints_are_in_order_of_their_steps(tmp_path: Path) -> None:
    save(tmp_path, 10, 9, 100)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / ".checkpoint-7.1.partial").mkdir()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [9, 10, 100]


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 6, 8, limit=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [6, 8]


def test_the_one_just_written_is_kept_when_later_ones_are_there(tmp_path: Path) -> None:
    save(tmp_path, 2, 6, 8)
    save(tmp_path, 4, limit=1)
    assert 4 in [step for step, _ in list_checkpoints(tmp_path)]


@pytest.mark.parametrize("file", [STATE_FILE, MANIFEST_FILE])
def test_a_torn_checkpoint_is_told_at_any_length(file: str, tmp_path: Path) -> None:
    save(tmp_path, 4)
    torn = tmp_path / "checkpoint-4" / file
    whole = torn.read_bytes()
    for length in range(0, len(whole), 23):
        torn.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^checkpoint-4: torn"):
            read_checkpoint(tmp_path / "checkpoint-4")


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    save(tmp_path, 4)
    for file in (STATE_FILE, MANIFEST_FILE):
        path = tmp_path / "checkpoint-4" / file
        whole = path.read_bytes()
        bits = range(8) if file == MANIFEST_FILE else [3]
        for place, bit in itertools.product(range(len(whole)), bits):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            found = outcome(tmp_path / "checkpoint-4")
            if isinstance(found, State):  # in the note of the run's facts
                assert file == MANIFEST_FILE
                assert same(found, state(4)), place
            else:
                assert found.startswith("checkpoint-4: torn"), place
        path.write_bytes(whole)


@pytest.mark.parametrize("file", [STATE_FILE, MANIFEST_FILE])
def test_a_missing_file_is_named(file: str, tmp_path: Path) -> None:
    save(tmp_path, 4)
    (tmp_path / "checkpoint-4" / file).unlink()
    with pytest.raises(UserError, match=rf"^checkpoint-4: torn, .*{file} cannot be read"):
        read_checkpoint(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("manifest", ["[]", "{}", "4", '{"step": 4, "sha256": "x"}', "\udcff"])
def test_a_manifest_of_something_else_is_torn(manifest: str, tmp_path: Path) -> None:
    save(tmp_path, 4)
    path = tmp_path / "checkpoint-4" / MANIFEST_FILE
    path.write_bytes(manifest.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"^checkpoint-4: torn"):
        read_checkpoint(tmp_path / "checkpoint-4")


def test_the_newest_whole_one_wins_and_torn_ones_are_named(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 6, 8)
    (tmp_path / "checkpoint-8" / MANIFEST_FILE).unlink()
    torn = tmp_path / "checkpoint-6" / STATE_FILE
    torn.write_bytes(torn.read_bytes()[:-1])
    notices: list[str] = []
    assert same(find_checkpoint(tmp_path, "latest", notices.append), state(4))
    assert [notice.split(":")[0] for notice in notices] == [
        "skipped checkpoint-8", "skipped checkpoint-6",
    ]  # fmt: skip


def test_latest_of_none_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, "latest", lambda text: None) is None
    (tmp_path / "checkpoint-3").mkdir()
    notices: list[str] = []
    assert find_checkpoint(tmp_path, "latest", notices.append) is None
    assert len(notices) == 1


def test_one_asked_for_by_name_or_path_is_read(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    for asked in ("checkpoint-2", str(tmp_path / "checkpoint-2"), "checkpoint-2/"):
        assert same(find_checkpoint(tmp_path, asked, lambda text: None), state(2))
    with pytest.raises(UserError, match=r"it has: checkpoint-2, checkpoint-4"):
        find_checkpoint(tmp_path, "checkpoint-3", lambda text: None)
    (tmp_path / "checkpoint-4" / STATE_FILE).unlink()
    with pytest.raises(UserError, match=r"^checkpoint-4: torn"):
        find_checkpoint(tmp_path, "checkpoint-4", lambda text: None)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_checkpoints(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 2, 4, limit=2)
    before = contents(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    for step in (6, 4):
        with pytest.raises(UserError, match=f"checkpoint-{step}: the disk is full"):
            save(tmp_path, step, limit=1)
        assert contents(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == 2
