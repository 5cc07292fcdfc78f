"""What the supervisor decides by itself, with ranks that are told how to end."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.node import restart_policy, run_state
from bootstrap.node.job import Job, JobNode
from bootstrap.node.mpirun import activated
from bootstrap.node.restart_policy import Attempt, RestartPolicy, outcome
from bootstrap.node.supervisor import Supervisor


def make(tmp_path: Path, **changes: Any) -> Supervisor:
    node = JobNode("head", "127.0.0.1", 1)
    job = Job("x", str(tmp_path / "ro ot"), (node,), ("--a",), **changes)
    job.folder.mkdir(parents=True)
    return Supervisor(job)


def with_tries(
    made: Supervisor, monkeypatch: pytest.MonkeyPatch, *tries: Callable[[], Attempt]
) -> list[bool]:
    """Replace mpirun; returns, filled later, whether each try went on from a checkpoint."""
    resumed: list[bool] = []

    def mpirun(_: object, resume: bool) -> Attempt:
        resumed.append(resume)
        return tries[len(resumed) - 1]()

    monkeypatch.setattr(restart_policy, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(made, "_train", mpirun)
    return resumed


def dies() -> Attempt:
    return Attempt("failed", "died", again=True)


def done() -> Attempt:
    return Attempt("done")


def test_a_try_that_dies_early_does_not_go_on_with_an_older_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    config, events = made.job.folder / "config.toml", made.job.folder / "events.jsonl"
    config.write_text("[run]\nseed = 1\n")
    os.utime(config, (1.0, 1.0))
    events.write_text('{"event": "start", "time": 2.0, "step": 0}\n')

    def begins() -> Attempt:
        run_state.append_event(made.job.folder, "start", step=0)
        return dies()

    resumed = with_tries(made, monkeypatch, dies, begins, done)
    assert made.run() == 0
    assert resumed == [False, False, True]
    text = events.read_text()
    assert text.count('"restart"') == 1


def test_a_job_that_is_to_resume_does_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, resume=True)
    assert with_tries(made, monkeypatch, done) == []
    resumed = with_tries(made, monkeypatch, done)
    assert made.run() == 0
    assert resumed == [True]


def test_the_pause_between_tries_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, tries=4)
    with_tries(made, monkeypatch, *[dies] * 4)
    monkeypatch.setattr(restart_policy, "FIRST_PAUSE", 5.0)
    waited: list[float | None] = []
    monkeypatch.setattr(made.stop, "wait", waited.append)
    assert made.run() == 1
    assert waited == [5.0, 10.0, 20.0]


def test_stopped_before_there_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    made.stop.set()
    with_tries(made, monkeypatch, dies)
    assert made.run() == 0
    assert made.journal.state["reason"] == "died; no checkpoint yet"


def test_whatever_goes_wrong_no_ranks_are_left_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Attempt:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = make(tmp_path)
    with_tries(made, monkeypatch, full)
    ended: list[object] = []

    def end_processes(nodes: object) -> list[str]:
        ended.append(nodes)
        return []

    monkeypatch.setattr(made.workers, "end_processes", end_processes)
    monkeypatch.setattr(run_state, "append_event", full)
    assert made.run() == 1
    assert len(ended) == 2  # before the try, and after the failure
    state = run_state.read_state(made.job.folder)
    assert state["phase"] == "failed"
    assert "No space left" in state["reason"]


def test_an_odd_root_is_quoted(tmp_path: Path) -> None:
    made = make(tmp_path)
    root = Path(made.job.root)
    (root / "activate").write_text("export FOUND=it\n")
    words = activated(made.job, ["printenv", "FOUND"])
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "it\n"


def test_a_job_is_not_written_while_another_runs(tmp_path: Path) -> None:
    made = make(tmp_path)
    path = made.job.folder / "job.json"
    path.write_text("the other's")
    words = [sys.executable, "-P", "-m", "bootstrap.node.supervisor", str(path), "--given"]
    with run_state.held(Path(made.job.root)) as lock:
        assert lock is not None
        finished = subprocess.run(
            words, input=made.job.text(), capture_output=True, text=True, check=False
        )
    assert finished.returncode == 1
    assert "another training is running" in finished.stderr
    assert path.read_text() == "the other's"
    text = json.dumps({**json.loads(made.job.text()), "minimum_nodes": 2, "tries": 1})
    subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert path.read_text() == text


def test_a_new_checkpoint_begins_the_count_of_failures_anew() -> None:
    policy = RestartPolicy(tries=2, best_step=-1).after_failure(-1)
    assert (policy.failures, policy.gives_up, policy.newest) == (1, False, "no checkpoint yet")
    further = policy.after_failure(25)
    assert (further.failures, further.gives_up) == (1, False)
    last = further.after_failure(25)
    assert (last.failures, last.gives_up, last.newest) == (2, True, "checkpoint-25 is the newest")


def test_an_exit_code_says_whether_another_try_may_do_better() -> None:
    assert outcome(0, True, "") == Attempt("done")
    assert outcome(9, True, "") == Attempt("stopped")
    assert not outcome(2, False, "no such folder").again
    assert outcome(9, False, "killed") == Attempt("failed", "mpirun ended with 9: killed", True)
