"""A run is kept going on the head: ranks killed, nodes cut off, bad input, an end asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bootstrap.node import run_processes, run_state
from bootstrap.node.job import Job, JobNode
from tests.local_cluster import make_root, node_variables, training_arguments
from tests.short_run import PRECISIONS

SECONDS = 240
HEAD = JobNode("head", "127.0.0.2", 1)
WORKER = JobNode("worker-1", "127.0.0.3", 1)
ROWS = "learned_embeds.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("nodes") / "root")


@pytest.fixture(autouse=True)
def nothing_is_left(root: Path) -> Iterator[None]:
    """No test leaves a rank, a proxy or a supervisor behind, and every node is up again."""
    yield
    for down in (root / "down").iterdir():
        down.unlink()
    left = [run for run in (root / "runs").iterdir() if run_processes.processes_of(str(run))]
    for run in left:
        run_processes.end_all(str(run))
    assert not left
    assert not run_state.is_held(root)


def make_job(root: Path, name: str, **changes: Any) -> Job:
    """A job of two nodes with one rank each; keyword arguments are the training's, or replace."""
    fields = {"watch_seconds": 0.2, "misses": 2, "tries": 3}
    fields |= {key: changes.pop(key) for key in list(changes) if key in Job.__dataclass_fields__}
    values: dict[str, Any] = {
        "name": name,
        "root": str(root),
        "nodes": (HEAD, WORKER),
        "arguments": training_arguments(root, name, **changes),
        "environment": {
            "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **node_variables(),
        },
        "ssh": str(root / "cluster" / "ssh"),
        **fields,
    }  # fmt: skip
    job = Job(**values)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "job.json").write_text(job.text())
    return job


def start(job: Job, detach: bool = False) -> subprocess.Popen[str]:
    words = [job.python, "-m", "bootstrap.node.supervisor", str(job.folder / "job.json")]
    log = None if detach else (job.folder / run_state.LOG).open("a")
    return subprocess.Popen(
        [*words, *(["--detach"] if detach else [])], env={**os.environ, **node_variables()},
        stdout=log, stderr=log, text=True,
    )  # fmt: skip


def run(job: Job) -> int:
    return start(job).wait(SECONDS)


def log(job: Job) -> str:
    return (job.folder / run_state.LOG).read_text()


def events(job: Job, kind: str) -> list[dict[str, Any]]:
    path = job.folder / run_state.EVENTS
    found = run_state.read_events(path.read_text()) if path.exists() else []
    return [event for event in found if event["event"] == kind]


def rows(job: Job) -> bytes:
    return (job.folder / ROWS).read_bytes()


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a state that the run reaches by itself; it must not end before."""
    while not true():
        assert process.poll() is None, "the run ended before it got there"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole_in(root: Path) -> Callable[[str], bytes]:
    """What a run of a precision learns that nothing happens to: two nodes, one rank each."""

    @cache
    def learned(precision: str) -> bytes:
        job = make_job(root, f"whole-{precision}", mixed_precision=precision)
        assert run(job) == 0, log(job)
        assert not events(job, "restart")
        return rows(job)

    return learned


@pytest.fixture(scope="module")
def whole(whole_in: Callable[[str], bytes]) -> bytes:
    return whole_in("no")


def on_step(job: Job, step: int) -> Callable[[], bool]:
    return lambda: any(event["step"] >= step for event in events(job, "step"))


def a_rank(job: Job) -> int:
    """A process of the run that trains, the last one started."""
    return max(
        pid
        for pid in run_processes.processes_of(str(job.folder))
        if b"training.textual_inversion" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"mpi" not in Path(f"/proc/{pid}/comm").read_bytes()
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_killed_rank_costs_no_bit(
    root: Path, whole_in: Callable[[str], bytes], precision: str
) -> None:
    whole = whole_in(precision)
    job = make_job(root, f"killed-rank-{precision}", mixed_precision=precision, max_train_steps=6)
    process = start(job)
    until(on_step(job, 3), process)
    os.kill(a_rank(job), signal.SIGKILL)
    assert process.wait(SECONDS) == 0, log(job)
    assert rows(job) == whole
    (restart,) = events(job, "restart")
    assert restart["step"] in (2, 4)
    assert restart["nodes"] == ["head", "worker-1"]
    assert f"restarted from step {restart['step']} on 2 of 2 nodes" in restart["text"]
    assert run_state.read_state(job.folder)["phase"] == "done"
    assert [event["step"] for event in events(job, "start")][1:] == [restart["step"]]


def test_a_node_cut_off_is_left_out(root: Path, whole: bytes) -> None:
    """Its ranks hang rather than die: only the watch can notice."""
    job = make_job(root, "cut-off", max_train_steps=400)
    process = start(job)
    until(on_step(job, 3), process)
    frozen = a_rank(job)
    os.kill(frozen, signal.SIGSTOP)
    (root / "down" / WORKER.address).touch()
    until(lambda: bool(events(job, "restart")), process)
    (restart,) = events(job, "restart")
    assert "] without an answer: worker-1\n" in log(job)
    assert restart["nodes"] == ["head"]
    assert restart["ranks"] == 1
    assert "without worker-1 (1 ranks): lost worker-1" in restart["text"]
    until(lambda: len(events(job, "start")) == 2, process)
    first, second = events(job, "start")
    assert (first["ranks"], second["ranks"]) == (2, 1)
    assert second["global_batch"] == first["global_batch"]
    until(on_step(job, restart["step"] + 2), process)
    process.terminate()
    assert process.wait(SECONDS) == 0, log(job)


def test_too_few_nodes_are_given_up(root: Path) -> None:
    job = make_job(root, "too-few", minimum_nodes=2, tries=2)
    (root / "down" / WORKER.address).touch()
    assert run(job) == 1
    (gave_up,) = events(job, "gave_up")
    assert "1 of 2 nodes answer, 2 are required (not: worker-1)" in gave_up["text"]
    assert gave_up["text"].startswith("2 tries without a new checkpoint")
    assert run_state.read_state(job.folder)["phase"] == "failed"


def test_bad_input_is_not_tried_again(root: Path) -> None:
    job = make_job(root, "bad-input", train_data_dir=root / "nowhere")
    assert run(job) == 1
    (gave_up,) = events(job, "gave_up")
    assert "the training refused to start: train_data_dir" in gave_up["text"]
    assert log(job).count("/env/bin/mpirun") == 1


def test_asked_to_stop_it_ends_with_a_checkpoint_and_can_be_resumed(
    root: Path, whole: bytes
) -> None:
    job = make_job(root, "stopped", max_train_steps=400)
    process = start(job)
    until(on_step(job, 3), process)
    process.terminate()
    assert process.wait(SECONDS) == 0, log(job)
    (stopped,) = events(job, "stopped")
    assert (job.folder / f"checkpoint-{stopped['step']}").is_dir()
    assert run_state.read_state(job.folder)["phase"] == "stopped"
    assert not events(job, "restart")


def test_detached_it_answers_at_once_and_goes_on_alone(root: Path, whole: bytes) -> None:
    job = make_job(root, "detached")
    starter = start(job, detach=True)
    assert starter.wait(SECONDS) == 0
    state = run_state.read_state(job.folder)
    assert state["phase"] not in run_state.ENDED
    assert os.getsid(state["pid"]) != os.getsid(0)
    second = start(make_job(root, "second"), detach=True)
    assert second.wait(SECONDS) == 1
    descriptor = os.pidfd_open(state["pid"])
    ended = threading.Event()

    def wait() -> None:
        import select

        select.select([descriptor], [], [], SECONDS)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert ended.wait(SECONDS)
    assert run_state.read_state(job.folder)["phase"] == "done", log(job)
    assert rows(job) == whole


def test_a_supervisor_that_was_killed_is_taken_over_from(root: Path, whole: bytes) -> None:
    job = make_job(root, "killed-supervisor", max_train_steps=6)
    process = start(job)
    until(on_step(job, 3), process)
    process.kill()
    process.wait()
    assert run_state.read_state(job.folder)["phase"] == "lost"
    again = make_job(root, "killed-supervisor", max_train_steps=6, resume=True)
    assert run(again) == 0, log(again)
    assert rows(again) == whole


def test_job_json_holds_the_job(root: Path) -> None:
    from bootstrap.node.job import read_job

    job = make_job(root, "json")
    assert read_job(job.folder / "job.json") == job
    assert json.loads(job.text())["nodes"][0]["name"] == "head"
