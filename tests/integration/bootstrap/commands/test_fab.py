"""`fab`: the tasks that there are, and what follows a task's name reaching it as it was typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fabfile

CHECKOUT = Path(__file__).parents[4]
FAB = Path(sys.executable).with_name("fab")


def fab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FAB, *words],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_task_is_listed_with_what_it_does() -> None:
    listed = re.findall(r"^  (\S+)   *\S", fab("--list").stdout, re.MULTILINE)
    assert listed == sorted(fabfile.COMMANDS)


@pytest.mark.parametrize("name", sorted(fabfile.COMMANDS))
def test_every_task_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = fabfile.COMMANDS[name](["--help"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    # The others speak of the selected stack or of one record here alone.
    assert "--inventory" in said.out or name in ("destroy", "forget-host", "preflight")


def test_every_command_that_the_pages_show_exists() -> None:
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    # Only what stands as a command: in backquotes, or at the beginning of a line of a block.
    shown = re.findall(r"(?:`|^ *|sudo |&& )(fab|make) ([a-z][a-z-]*)", text, re.MULTILINE)
    tasks = {name for program, name in shown if program == "fab"}
    assert {"bootstrap", "check", "train", "fetch"} <= tasks
    assert tasks <= set(fabfile.COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert {name for program, name in shown if program == "make"} <= targets


def test_mpiruns_own_flags_are_taken_as_mpirun_writes_them() -> None:
    said = fab("train", "-n", "two", "-ppn", "0x", "--max-trian-steps", "5").stderr
    assert "-n" in said
    assert "-ppn" in said
    assert "did you mean --max-train-steps" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["bootstrap", "check", "train", "status", "fetch", "clean"])
def test_without_a_cluster_each_says_what_to_do(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fabfile.COMMANDS[name](["--inventory", "nowhere.json"]) in (1, 2)
    assert capsys.readouterr().err.startswith("error: nowhere.json cannot be read")
