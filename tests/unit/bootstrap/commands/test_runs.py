"""`fab runs`: what is on the head and here, as one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import runs
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.runs import runs_on_head
from bootstrap.runs.results import Fetched, record_fetched
from bootstrap.ssh.host import local_host


def a_run(name: str, phase: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "state": {"phase": phase}, "began": 1.0, "start": {"max_train_steps": 90},
        "step": {"step": 7}, "checkpoint": 5, "results_until": 40, "whole_pipeline": False,
        **changes,
    }  # fmt: skip


def shown(monkeypatch: pytest.MonkeyPatch, *there: dict[str, Any]) -> None:
    monkeypatch.setattr(runs_on_head, "all_runs", lambda head: list(there))
    monkeypatch.setenv("COLUMNS", "200")
    node = Node("n0", "127.0.0.1")
    host = local_host(node, "/nowhere")
    assert runs.act(argparse.Namespace(), Inventory("c", "file", (node,)), [host]) == 0


def test_what_is_there_and_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown(monkeypatch)
    assert "no run yet" in capsys.readouterr().out
    for name in ("old", "dicoo", ".hidden"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    record_fetched("c", "dicoo", Fetched(1.0, 40))
    new = a_run("new", "training")
    begun = a_run("begun", "starting", start=None, step=None, checkpoint=None, results_until=0)
    shown(monkeypatch, a_run("dicoo", "done"), new, begun)
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["old", "no", "runs/old/"] in lines
    assert ["dicoo", "done", "7", "of", "90", "5", "runs/dicoo/"] in lines
    assert ["new", "training", "7", "of", "90", "5", "not", "fetched"] in lines
    assert ["begun", "starting"] in lines
    assert not any(".hidden" in word for line in lines for word in line)
