"""Digests are remembered while the files are the same, and never longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.models.files import digests
from training.models.files.digests import remembered, source_of

CHECKOUT = Path(__file__).parents[4]
LATER = time.time_ns() + 3_600_000_000_000
"""An hour from now: whatever the tests write has settled by then."""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    return path


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "xeon-diffusion" / "digests").glob("*"))


def look(path: Path, now: int = LATER, form: tuple[str, ...] = ()) -> tuple[str, bool]:
    """The digest of a file, and whether it was read for that."""
    read: list[bool] = []

    def compute() -> str:
        read.append(True)
        return path.read_bytes().hex()

    return remembered(source_of([path]), form, compute, lambda: now), bool(read)


def test_the_second_time_nothing_is_read(weights: Path) -> None:
    assert look(weights) == (b"one".hex(), True)
    assert look(weights) == (b"one".hex(), False)
    assert look(weights, form=("bfloat16",)) == (b"one".hex(), True)


def test_a_changed_file_of_the_same_size_and_time_is_read(weights: Path) -> None:
    about = weights.stat()
    look(weights)
    weights.write_bytes(b"two")
    os.utime(weights, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert look(weights) == (b"two".hex(), True)
    other = weights.with_name("other")
    other.write_bytes(b"tri")
    other.replace(weights)
    assert look(weights) == (b"tri".hex(), True)


def test_what_has_just_been_written_is_not_remembered(weights: Path, tmp_path: Path) -> None:
    now = weights.stat().st_mtime_ns + digests.SETTLED_NANOSECONDS - 1
    assert look(weights, now) == (b"one".hex(), True)
    assert look(weights, now) == (b"one".hex(), True)
    assert entries(tmp_path) == []


def test_what_changes_while_it_is_read_is_not_remembered(weights: Path, tmp_path: Path) -> None:
    def compute() -> str:
        weights.write_bytes(b"longer")
        return "of the old or of the new"

    remembered(source_of([weights]), (), compute, lambda: LATER)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("kept", ["", '{"key": [', "[]", "7", '{"digest": "0", "check": "0"}'])
def test_a_torn_entry_counts_as_none_and_is_mended(
    kept: str, weights: Path, tmp_path: Path
) -> None:
    look(weights)
    (entry,) = entries(tmp_path)
    entry.write_text(kept)
    assert look(weights) == (b"one".hex(), True)
    assert look(weights) == (b"one".hex(), False)


def test_an_entry_that_was_altered_counts_as_none(weights: Path, tmp_path: Path) -> None:
    look(weights)
    (entry,) = entries(tmp_path)
    values = json.loads(entry.read_text())
    entry.write_text(json.dumps({**values, "digest": "another"}))
    assert look(weights) == (b"one".hex(), True)


def test_without_a_place_to_keep_it_it_is_computed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert look(weights) == (b"one".hex(), True)
    assert look(weights) == (b"one".hex(), True)
    assert remembered(source_of([tmp_path / "absent"]), (), lambda: "computed") == "computed"


def test_only_so_many_are_kept(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "KEPT", 3)
    for number in range(6):
        look(weights, form=(str(number),))
    assert len(entries(tmp_path)) == 3


PROGRAM = """
import sys
from pathlib import Path
from training.models.files.digests import remembered, source_of

source = source_of([Path(sys.argv[1])])
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    found = remembered(source, [str(number % 5)], lambda: "f" * 64, lambda: 2**62)
    assert found == "f" * 64
"""


def test_two_processes_at_once(weights: Path, tmp_path: Path) -> None:
    """As two ranks of a machine do it."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(weights)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0]
    assert len(entries(tmp_path)) == 5
    for number in range(5):
        source = source_of([weights])
        assert remembered(source, [str(number)], lambda: "another") == "f" * 64
