"""`fab`: the tasks that there are, and what follows a task's name reaching it as it was typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fabfile
from bootstrap.commands import bootstrap
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.setup.model_and_data import read_input
from tests.rig.__main__ import bootstrap_line

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


def test_what_bootstrap_is_to_add_is_a_lock_of_its_own(tmp_path: Path) -> None:
    chosen = bootstrap.parser().parse_args(
        ["--stack", "upstream", "--with", "openvino", "--with", "openvino"]
    )
    cluster = Inventory("c", "file", (Node("n0", "127.0.0.1"),))
    options = bootstrap._options(chosen, cluster, Console(quiet=True))
    assert (options.lock.stack, options.lock.extras) == ("upstream", ("openvino",))
    assert "gradio" in options.lock.pins


def test_the_line_that_make_rig_prints_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    services = {"package_index_url": "http://198.18.0.1:8000/simple"}
    fab, task, *words = shlex.split(bootstrap_line(CHECKOUT / "rig.json", services))
    assert (fab, task) == (".venv-cluster/bin/fab", "bootstrap")
    chosen = bootstrap.parser().parse_args(words)
    assert (chosen.inventory, chosen.package_index) == ("rig.json", services["package_index_url"])
    assert read_input("model", chosen.pretrained_model_name_or_path).local is not None
    assert read_input("pictures", chosen.train_data_dir).local is not None
    elsewhere = bootstrap_line(Path("/tmp/my rig.json"), {})
    assert "--inventory '/tmp/my rig.json' " in elsewhere
    assert "--package-index" not in elsewhere
