"""Results come home into a folder of their run, and into no other's, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.node import checkpoints, run_query, run_state
from bootstrap.runs import attach, results, results_owner, runs_on_head
from bootstrap.runs.run_progress import RunProgress
from bootstrap.ssh.host import Host, local_host


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A head whose runs are told here, and a person's empty folder."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    host = local_host(Node("head", "127.0.0.1"), str(tmp_path / "root"))

    def ask(_: object, what: str, name: str) -> str:
        assert what == "gather"
        return json.dumps(run_query.gather(Path(host.layout.runs) / name))

    monkeypatch.setattr(runs_on_head, "ask_head", ask)
    return host


def write_run(head: Host, began: float, step: int = 0, seed: int = 7) -> Path:
    folder = Path(head.layout.runs) / "x"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[run]\nseed = {seed}\n")
    events: list[dict[str, Any]] = [{"event": "start", "time": began, "step": step}]
    events.append({"event": "checkpoint", "time": began + 1, "step": step + 5})
    (folder / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    (folder / "rows").write_text(str(began))
    return folder


def test_another_runs_results_are_not_written_over(head: Host) -> None:
    write_run(head, 1.0)
    here = results.fetch_results(head, "c", "x")
    assert json.loads((here / ".origin").read_text()) == {"cluster": "c", "began": 1.0}
    results.fetch_results(head, "c", "x")
    write_run(head, 2.0)  # begun over, from the same seed
    with pytest.raises(UserError, match=r"runs/x/ here holds the results of another run.*--run"):
        results.fetch_results(head, "c", "x")
    with pytest.raises(UserError, match="mv runs/x"):
        results_owner.refuse_taken("x")
    assert (here / "rows").read_text() == "1.0"
    assert not list(Path(head.layout.runs).glob(".gathered/*"))
    here.rename("old")
    results_owner.refuse_taken("x")
    results.fetch_results(head, "c", "x")
    assert (here / "rows").read_text() == "2.0"


def test_a_folder_of_unknown_origin_is_another_runs(head: Host) -> None:
    write_run(head, 1.0)
    here = Path("runs/x")
    here.mkdir(parents=True)
    (here / "rows").write_text("mine")
    with pytest.raises(UserError, match="another run"):
        results.fetch_results(head, "c", "x")
    assert [path.name for path in here.iterdir()] == ["rows"]
    (here / "rows").unlink()
    results.fetch_results(head, "c", "x")


def test_a_run_resumed_on_a_new_head_keeps_its_first_loss_curve(head: Host) -> None:
    first = (write_run(head, 1.0) / "events.jsonl").read_text()
    here = results.fetch_results(head, "c", "x")
    write_run(head, 2.0, step=5, seed=8)
    with pytest.raises(UserError, match="another run"):
        results.fetch_results(head, "c", "x")
    second = (write_run(head, 3.0, step=5) / "events.jsonl").read_text()
    for _ in range(2):
        results.fetch_results(head, "c", "x")
    assert (here / "events-1.0.jsonl").read_text() == first
    assert (here / "events.jsonl").read_text() == second
    assert json.loads((here / ".origin").read_text())["began"] == 3.0


def test_full_covers_what_was_there(head: Host) -> None:
    folder = write_run(head, 1.0)
    (folder / "model_index.json").write_text("{}")
    results.fetch_results(head, "c", "x", full=True)
    assert results.unfetched("c", run_query.summary(folder)) == ""
    results.fetch_results(head, "c", "x")
    assert results.unfetched("c", run_query.summary(folder)) == ""
    run_state.append_event(folder, "done", step=9)
    results.fetch_results(head, "c", "x")
    assert results.unfetched("c", run_query.summary(folder)) == "the whole pipeline (--full)"


def test_a_disk_that_cannot_be_written_is_said_once(head: Host) -> None:
    write_run(head, 1.0)
    Path("runs").write_text("in the way")
    with pytest.raises(UserError, match=r"runs/x/: .*fab fetch goes on"):
        results.fetch_results(head, "c", "x")
    console = Console(record=True, width=300, force_terminal=False)
    with RunProgress("x", console) as progress:
        fetcher = attach.ResultsFetcher(head, "c", "x", progress)
        fetcher._over = True
        for _ in range(2):
            fetcher.more()
            fetcher._fetch()
        assert console.export_text().count("not fetched yet") == 1
        Path("runs").unlink()
        fetcher.more()
        fetcher._fetch()
    assert fetcher.problem == ""
    assert Path("runs/x/rows").exists()


def test_two_gather_at_once_and_files_go_away(head: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(head, 1.0)
    (folder / "samples").mkdir()
    (folder / "samples" / ".half").write_text("")
    first, second = run_query.gather(folder), run_query.gather(folder)
    assert first["path"] != second["path"]
    link = os.link

    def vanishing(source: Path, target: Path) -> None:
        if source.name == "rows":
            source.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", vanishing)
    third = Path(run_query.gather(folder)["path"])
    assert {path.name for path in third.iterdir()} == {"config.toml", "events.jsonl", "samples"}
    assert not list((third / "samples").iterdir())
    assert checkpoints.run_record(third) == {"seed": 7}
    assert (Path(first["path"]) / "rows").exists()
