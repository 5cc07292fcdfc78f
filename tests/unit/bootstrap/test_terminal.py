"""What nodes say is shown as it is, and does nothing to the terminal that it is shown on."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from bootstrap import terminal
from bootstrap.commands import command_line, status
from bootstrap.commands.checks import report
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.runs import attach
from bootstrap.runs.run_progress import RunProgress
from bootstrap.setup import setup_progress
from bootstrap.ssh import node_log
from bootstrap.ssh.host import Host, local_host

PACKAGE = Path(terminal.__file__).parent
ON_NODES = {
    "checkpoints", "conda_node", "conda_packages", "deallocate", "environment_report",
    "errors", "hub_download", "idle_watch", "node_report", "run_processes", "run_query",
    "run_state", "supervisor",
}  # fmt: skip
"""Programs that bootstrap runs on nodes, and how they end: what they print is read by bootstrap."""
EVIL = "\x1b]0;owned\x07 [/home/a] x [red]y\x9b2J\u202ez\r\udcff"
SHOWN = r"\x1b]0;owned\x07 [/home/a] x [red]y\x9b2J\u202ez\r\udcff"


@pytest.fixture
def host() -> Host:
    return local_host(Node("n0", "127.0.0.1"), "/nowhere")


def recording() -> Console:
    return Console(record=True, width=300, force_terminal=True, legacy_windows=False)


def test_what_cannot_be_seen_is_escaped_and_all_else_is_as_it_was() -> None:
    assert terminal.shown(EVIL) == SHOWN
    plain = "größe 猫 — µs ✓ a\tb\nc \u3000"
    assert terminal.shown(plain) == plain
    assert terminal.in_a_line("a\tb\nc") == r"a\tb\nc"


def test_nothing_is_printed_for_a_person_but_through_it() -> None:
    """rich's own names stand for text with markup in it; a status may be a constant or a cell."""
    around = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem in ON_NODES or path.stem == "terminal":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            words = [ast.unparse(word) for word in node.args if not isinstance(word, ast.Constant)]
            if called.rpartition(".")[2] in ("print", "TextColumn", "Text", "Table", "add_row") or (
                (called == "input" or called.endswith((".status", "status.update", "stdout.write")))
                and not all(word.startswith("cell(") for word in words)
            ):
                around.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert around == []


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def act(*_: object) -> int:
        raise UserError(f"n0: first\n{EVIL}")

    chosen = argparse.Namespace(inventory="local", accept_host_keys=True)
    assert command_line.run_command(chosen, act) == 1
    assert capsys.readouterr().err == f"error: n0: first\n{SHOWN}\n"


def test_the_tables_of_check_and_status(host: Host) -> None:
    console = recording()
    report.show([report.CheckResult("disk", "n0", False, EVIL, EVIL)], console)
    terminal.draw(console, status.table_of([host], [EVIL]))
    said = console.export_text()
    assert said.count(SHOWN) == 3


def test_the_table_and_the_lines_of_bootstrap(host: Host) -> None:
    console = recording()
    live = setup_progress.LiveTable([host])
    live.began(host, "packages")
    live.said(host, EVIL)
    console.print(live)
    setup_progress.PlainLines(console).ended(host, EVIL, 1.0, UserError(EVIL))
    assert console.export_text().count(SHOWN) == 2


def test_a_run_and_its_end() -> None:
    console = recording()
    with RunProgress("x", console) as progress:
        progress.event({"event": "notice", "text": EVIL})
        progress.event({"event": "checkpoint", "step": 1, "path": EVIL})
    for phase in ("failed", "stopped"):
        attach.ended({"phase": phase, "reason": EVIL}, "x", console)
    assert console.export_text().count(SHOWN) == 4


def test_a_bar() -> None:
    console = recording()
    bar = Progress(terminal.column("fetching {task.description}"), console=console)
    bar.add_task(terminal.in_a_line(EVIL))
    console.print(bar.get_renderable())
    assert console.export_text().strip() == f"fetching {SHOWN}"


def test_a_runs_lines_in_status() -> None:
    run = {
        "name": "x", "state": {"phase": "failed", "reason": EVIL}, "step": None, "start": None,
        "restarts": 1, "last_words": EVIL, "checkpoint": None, "results_until": 0, "began": None,
        "whole_pipeline": False,
    }  # fmt: skip
    console = recording()
    for line in status.lines_of(run, Inventory("c", "file", (Node("n0", "10.0.0.1"),)), 0.0):
        terminal.say_on(console, line)
    assert console.export_text().count(SHOWN) == 2


def test_a_nodes_log(host: Host, tmp_path: Path) -> None:
    hosts: list[Host] = [host]
    with node_log.logging_to(tmp_path, hosts) as (logged,):
        logged.run(r"printf '\033]0;owned\007 a\tb\n'")
    (line,) = [
        line for line in (tmp_path / "n0.log").read_text().splitlines() if "$" not in line
    ]  # fmt: skip
    assert line.endswith("\\x1b]0;owned\\x07 a\tb")
