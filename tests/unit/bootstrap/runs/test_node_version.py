"""A cluster that another version of the checkout has set up is told plainly, with what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.commands.checks import nodes
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.runs import resume, runs_on_head
from bootstrap.ssh.host import Host, local_host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node whose environment holds a `bootstrap` without rooms."""
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    (tmp_path / "older" / "bootstrap").mkdir(parents=True)
    for name in ("__init__", "runs", "checkpoints", "node_report"):
        (tmp_path / "older" / "bootstrap" / f"{name}.py").write_text("")
    python = Path(host.python)
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path / "older"} exec {sys.executable} -P "$@"\n'
    )
    python.chmod(0o755)
    return host


@pytest.mark.parametrize(
    "ask",
    [runs_on_head.all_runs, lambda host: resume.find([host], "x"), nodes.read_report],
    ids=["status, logs, stop, fetch", "train --resume", "check"],
)
def test_the_versions_differ(host: Host, ask: Callable[[Host], object]) -> None:
    with pytest.raises(UserError) as caught:
        ask(host)
    said = str(caught.value)
    assert said.startswith("n0 was set up by another version of this checkout")
    assert "fab bootstrap brings this version" in said
    assert "the version that started it" in said


def test_an_environment_without_the_code_is_broken_not_older(host: Host, tmp_path: Path) -> None:
    Path(host.python).write_text(
        f'#!/bin/sh\nshift\ncd {tmp_path}; exec {sys.executable} -I -S "$@"\n'
    )
    with pytest.raises(UserError, match="its environment does not start"):
        nodes.read_report(host)
