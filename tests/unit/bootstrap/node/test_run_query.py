"""What the commands about runs read and say: checkpoints, events, money, processes, names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from bootstrap.commands import status
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node import (
    checkpoints,
    process_identity,
    run_processes,
    run_query,
    run_state,
)
from bootstrap.node.mpi import RUN_VARIABLE
from bootstrap.runs import results
from bootstrap.runs.placement.rank_placement import ranges
from bootstrap.runs.run_names import check_name, free_name
from bootstrap.runs.run_progress import RunProgress

CLUSTER = Inventory(
    "c", "stack", (Node("head", "10.0.0.1"),), price_per_hour_usd=2.0, price_as_of="2026-01-01"
)


def write_checkpoint(folder: Path, step: int, content: bytes = b"rows", run: str = "a") -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "state.safetensors").write_bytes(content)
    manifest = {"step": step, "sha256": hashlib.sha256(content).hexdigest(), "run": {"id": run}}
    (path / "state.json").write_text(json.dumps(manifest))
    (folder / f"learned_embeds-steps-{step}.safetensors").write_bytes(content)
    (folder / "config.toml").write_text(
        f'seed = 3\nplaceholder_token = "<x>"\n[run]\nid = "{run}"\n'
    )


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) == {"step": None, "run": None, "config": {}}
    for step in (2, 10, 9):
        write_checkpoint(tmp_path, step)
    assert checkpoints.newest(tmp_path)["step"] == 10
    (tmp_path / "checkpoint-10" / "state.safetensors").write_bytes(b"torn")
    assert checkpoints.newest(tmp_path)["step"] == 9
    shutil.copytree(tmp_path / "checkpoint-9", tmp_path / "checkpoint-11")  # says another step
    write_checkpoint(tmp_path / "other", 12, run="b")
    shutil.copytree(tmp_path / "other" / "checkpoint-12", tmp_path / "checkpoint-12")
    found = checkpoints.newest(tmp_path)
    assert found["step"] == 9
    assert found["run"] == {"id": "a"}
    assert found["config"] == {"seed": 3, "placeholder_token": "<x>"}


def test_a_checkpoint_travels_whole(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    write_checkpoint(there, 4)
    (there / "pytorch_lora_weights-steps-4.safetensors").write_bytes(b"what another method learned")
    (there / "learned_embeds.rex-steps-4.safetensors").write_bytes(b"one of several words")
    checkpoints.import_files(here, checkpoints.export(there, 4))
    assert checkpoints.newest(here) == checkpoints.newest(there)
    assert {p.name for p in here.iterdir()} == {p.name for p in there.iterdir()}
    with pytest.raises(UserError, match="is not a file of a checkpoint"):
        checkpoints.import_files(here, {"../evil": ""})
    with pytest.raises(UserError, match="arrived damaged"):
        checkpoints.import_files(here, {"checkpoint-4/state.json": "?"})


def test_a_checkpoint_that_a_kill_left_half_replaced_counts(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for step in (3, 4):
        write_checkpoint(there, step)
    (there / "checkpoint-4").rename(there / ".checkpoint-4.77.old")
    assert checkpoints.newest(there)["step"] == 4
    checkpoints.import_files(here, checkpoints.export(there, 4))
    assert checkpoints.newest(here)["step"] == 4
    assert (here / "checkpoint-4").is_dir()
    write_checkpoint(there, 4, b"newer")  # one of that name counts before it
    assert checkpoints.export(there, 4) != checkpoints.export(here, 4)


def event(kind: str, **values: Any) -> dict[str, Any]:
    return {"event": kind, "time": 100.0, **values}


def write_events(folder: Path, *events: dict[str, Any], torn: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(each) + "\n" for each in events) + torn
    (folder / "events.jsonl").write_text(text)


STEPS = [event("step", step=n, loss=1 / n, lr=1e-3, images_per_second=2.0) for n in (1, 2, 3)]
START = event("start", step=0, max_train_steps=13, global_batch=4, ranks=4)


def test_a_runs_summary_and_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    write_events(folder, START, *STEPS[:2], event("checkpoint", step=2), STEPS[2], torn='{"eve')
    found = run_query.summary(folder)
    assert (found["began"], found["checkpoint"], found["step"]["step"]) == (100.0, 2, 3)
    assert status.seconds_left(found) == 20.0
    until = found["results_until"]
    raw = (folder / "events.jsonl").read_bytes()
    assert raw[:until].endswith(b'"checkpoint", "time": 100.0, "step": 2}\n')
    said: list[dict[str, Any]] = []
    run_query.follow(folder, until, lambda line: said.append(json.loads(line)))
    assert [each["event"]["step"] for each in said if "event" in each] == [3]


def test_the_supervisors_events_end_torn_lines_and_are_read_by_the_training(
    tmp_path: Path,
) -> None:
    from training.storage.events import read_events

    write_events(tmp_path, START, *STEPS[:2], torn='{"event": "st')
    run_state.append_event(tmp_path, "restart", step=2, nodes=["a"], text="restarted")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[-2] == '{"event": "st'
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps(event("start", step=2, max_train_steps=13)) + "\n")
    kinds = [each["event"] for each in read_events(tmp_path)]
    assert kinds == ["start", "step", "step", "restart", "start"]


def test_what_has_not_come_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = {
        "name": "x", "began": 1.0, "results_until": 50, "checkpoint": 4, "whole_pipeline": True,
    }  # fmt: skip
    assert results.unfetched("c", run) == (
        "rows and samples up to checkpoint-4, the whole pipeline (--full)"
    )
    results.record_fetched("c", "x", results.Fetched(1.0, 50))
    assert "rows" in results.unfetched("c", run)  # noted, and not here any more
    (tmp_path / "runs" / "x").mkdir(parents=True)
    assert results.unfetched("c", run) == "the whole pipeline (--full)"
    results.record_fetched("c", "x", results.Fetched(1.0, 50, full_until=50))
    assert results.unfetched("c", run) == ""
    # A pipeline that is written later, by a run that went on, has not come home.
    results.record_fetched("c", "x", results.Fetched(1.0, 70, full_until=50))
    later = run | {"results_until": 70}
    assert results.unfetched("c", later) == "the whole pipeline (--full)"
    assert "rows" in results.unfetched("c", run | {"results_until": 71})
    assert "rows" in results.unfetched("c", run | {"began": 2.0})  # another run of that name


def test_status_says_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "x"
    write_events(folder, START, *STEPS)
    run_state.write_state(folder, {"phase": "done", "pid": 1, "ended": 3700.0, "reason": ""})
    text = "\n".join(status.lines_of(run_query.summary(folder), CLUSTER, 99999.0))
    assert "x: done" in text
    assert "step 3 of 13, loss 0.3333, 2.00 images/s" in text
    cost = "$2.00 from its start to its end ($2.00 per hour for the whole cluster, prices of"
    assert cost in text
    assert "left" not in text


def test_a_stranger_with_a_supervisors_old_number_is_not_signalled(tmp_path: Path) -> None:
    """After a reboot: OLD's number is another process's, and a new run holds the lock."""
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    stranger = subprocess.Popen(["sleep", "1000"])
    mine = process_identity.identity(stranger.pid)
    assert mine is not None
    boot, began = mine.split()
    try:
        with run_state.held(tmp_path):
            for recorded in (None, f"{boot} {int(began) - 1}", f"another-boot {began}"):
                state = {"phase": "training", "pid": stranger.pid, "process": recorded}
                run_state.write_state(folder, state)
                assert run_state.read_state(folder)["phase"] == "lost"
                assert run_query.stop(folder) is False
            assert stranger.poll() is None
            run_state.write_state(folder, state | {"process": mine})
            assert run_query.stop(folder) is True
            assert stranger.wait() == -signal.SIGTERM
        assert process_identity.identity(stranger.pid) is None
    finally:
        stranger.kill()
        stranger.wait()


def test_load() -> None:
    text = (
        "cpu 100 0 100 800 0 0 0 0 0 0\ncpu 175 0 100 825 0 0 0 0 0 0\n"
        "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n"
    )
    assert status.read_load(text) == status.Load(0.75, 1.0, 2.0)
    assert status.duration(59.6) == "1 min 0 s"
    assert status.duration(3700) == "1 h 1 min"


def test_progress_is_told_from_events_alone() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    with RunProgress("x", console) as progress:
        progress.state({"phase": "training", "ranks": 4, "nodes": ["a", "b"]})
        for each in (START, *STEPS, event("restart", step=2, text="restarted from step 2")):
            progress.event(each)
    text = console.export_text()
    assert "x: training: 4 ranks on 2 nodes" in text
    assert "x 1/13  loss 1.0000  2.00 images/s" in text
    assert "restarted from step 2" in text


def test_a_node_that_does_not_answer_is_told_before_it_is_lost() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    with RunProgress("x", console) as progress:
        for silent in ([], ["b"], ["b"], []):
            progress.state({"phase": "training", "nodes": ["a", "b"], "silent": silent})
        progress.state({"phase": "training", "silent": ["b"]})
        progress.state({"phase": "restarting", "silent": ["b"]})
    lines = console.export_text().splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "x: training: None ranks on 2 nodes",
        "b does not answer",
        "b answers again",
        "b does not answer",
        "x: restarting",
    ]


def test_followers_are_told_which_nodes_do_not_answer(tmp_path: Path) -> None:
    run_state.write_state(tmp_path, {"phase": "done", "silent": ["b"]})
    said: list[dict[str, Any]] = []
    run_query.follow(tmp_path, 0, lambda line: said.append(json.loads(line)))
    assert said[-1]["state"]["silent"] == ["b"]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_name("dicoo-2") == "dicoo-2"
    for bad in ("", "../x", ".hidden", "a/b", "a b", "-x", "x" * 65):
        with pytest.raises(UserError):
            check_name(bad)
    assert free_name("<dicoo>", []) == "dicoo"
    assert free_name("<dicoo>", [{"name": "dicoo"}, {"name": "dicoo-2"}]) == "dicoo-3"
    assert check_name(free_name("<…>", [])) == "run"
    (tmp_path / "runs" / "dicoo").mkdir(parents=True)  # of a cluster that is gone
    assert free_name("<dicoo>", []) == "dicoo-2"
    assert ranges([8, 0, 1, 2]) == "0-2,8"


def test_processes_are_found_by_the_runs_own_mark(tmp_path: Path) -> None:
    run, other = str(tmp_path / "run"), str(tmp_path / "run-2")
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    started = [
        subprocess.Popen(wait, stdin=subprocess.PIPE, env={**os.environ, RUN_VARIABLE: mark})
        for mark in (run, other)
    ]
    mpirun = subprocess.Popen([*wait, "-genv", RUN_VARIABLE, run], stdin=subprocess.PIPE)
    bystander = subprocess.Popen([*wait, run], stdin=subprocess.PIPE)
    try:
        assert set(run_processes.processes_of(run)) == {started[0].pid, mpirun.pid}
        assert run_processes.ranks_of(run) == [started[0].pid]
        Thread(target=lambda: (started[0].wait(), mpirun.wait()), daemon=True).start()
        assert run_processes.end_all(run) == 2
        assert started[1].poll() is None
        assert bystander.poll() is None
    finally:
        for process in (*started, mpirun, bystander):
            process.kill()
            process.wait()
