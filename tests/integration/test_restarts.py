"""What `benchmarks.restarts` counts: the results of resumed processes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks import restarts_process
from benchmarks.restarts import counted
from tests.processes import run_ranks
from tests.training_fixtures import Flags


def restarted(argv: list[str]) -> None:
    """One restart, in a process of `run_ranks`."""
    sys.argv = ["restarts_process", *argv]
    restarts_process.main()


def test_a_restart_says_what_its_steps_come_to(flags: Flags, tmp_path: Path) -> None:
    (whole,) = run_ranks(flags(), tmp_path / "logs")
    assert whole.code == 0, whole.output
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    found = []
    for arguments in (["2"], ["2", "--without-the-cure"], ["1"]):
        (ended,) = run_ranks(
            [str(tmp_path / "run"), *arguments], tmp_path / "logs", main=f"{__name__}:restarted"
        )
        assert ended.code == 0, ended.output
        found.append(ended.output.split()[-1])
    assert found[0] == found[1] != found[2]
    assert [len(digest) for digest in found] == [64] * 3
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-2", "checkpoint-4",
    ]  # fmt: skip


def test_results_are_counted_by_kind() -> None:
    found = counted({"cured": ["a" * 64] * 3, "not cured": ["b" * 64, "a" * 64, "a" * 64]})
    assert found == {
        "cured": {"restarts": 3, "distinct": 1, "results": {"a" * 12: 3}},
        "not cured": {"restarts": 3, "distinct": 2, "results": {"a" * 12: 2, "b" * 12: 1}},
    }
