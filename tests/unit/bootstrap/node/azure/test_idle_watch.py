"""`idle_minutes`: what counts as idle, when the VMs go, and what a person is told."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest

from bootstrap.commands import status, stay_awake
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node import run_state
from bootstrap.node.azure import deallocate
from bootstrap.node.azure.idle_watch import IdleWatch
from bootstrap.runs import idle
from bootstrap.ssh.host import Host, local_host
from tests.azure_vm import Azure, in_azure
from tests.local_cluster import node_variables

CHECKOUT = Path(__file__).parents[5]
NODES = (Node("head", "127.0.0.1"), Node("worker-1", "127.0.0.2"))
CLUSTER = Inventory("c", "stack", NODES, resource_group="rg", idle_minutes=30)
HOUR = 3600.0
CRONTAB = """\
#!/bin/sh
# Of one account, in a file.
if [ "$1" = -l ]; then cat "{file}" 2>/dev/null; else cat > "{file}"; fi
"""


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Azure]]:
    monkeypatch.setattr(deallocate, "BETWEEN_TRIES", 0.0)
    # This machine may have been started less than an hour ago.
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    with in_azure(monkeypatch) as stand_in:
        yield stand_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a head that has watched for two hours."""
    folder = tmp_path / ".xeon-diffusion"
    settings = folder / "idle" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"minutes": 60, "vms": ["worker-1", "head"]}))
    os.utime(settings, (time.time() - 2 * HOUR,) * 2)
    return folder


def deallocated(azure: type[Azure]) -> list[str]:
    return [line.split("/")[-2] for line in azure.asked if line.startswith("POST")]


def test_where_nothing_has_run_for_an_hour_the_vms_are_deallocated(
    root: Path, azure: type[Azure]
) -> None:
    IdleWatch(str(root)).check()
    assert deallocated(azure) == ["worker-1", "head"]


def test_a_training_counts_and_the_hour_begins_anew_after_it(
    root: Path, azure: type[Azure]
) -> None:
    watch = IdleWatch(str(root))
    with run_state.held(root):
        assert watch.tell()["busy"]
        watch.check()
    assert not watch.tell()["busy"]
    watch.check()
    assert deallocated(azure) == []
    assert 59 * 60 < watch.tell()["due_in"] <= HOUR


def test_a_program_of_ours_counts_and_another_does_not(root: Path, azure: type[Azure]) -> None:
    watch = IdleWatch(str(root))
    sleeps = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    for words, counts in ((sleeps, False), ([*sleeps, f"{root}/env/bin/python"], True)):
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            assert watch.is_busy() is counts
            process.communicate()
    assert not watch.is_busy()
    # Whoever asks has our words too, as has the shell that cron starts it by.
    shell = f"{sys.executable} -m bootstrap.node.azure.idle_watch tell {root}; exit"
    finished = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, check=True, cwd=CHECKOUT,
        env={**os.environ, **node_variables()},
    )  # fmt: skip
    assert json.loads(finished.stdout)["busy"] is False


def test_the_time_in_which_the_head_was_off_does_not_count(
    root: Path, azure: type[Azure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() - 60)
    watch = IdleWatch(str(root))
    watch.check()
    assert deallocated(azure) == []
    assert 58 * 60 < watch.tell()["due_in"] < HOUR


def test_stay_awake_holds_it_off_for_as_long_as_was_asked(root: Path, azure: type[Azure]) -> None:
    watch = IdleWatch(str(root))
    watch.stay_awake(3)
    watch.check()
    assert deallocated(azure) == []
    assert 2 * HOUR < watch.tell()["due_in"] <= 3 * HOUR
    watch.stay_awake(0)
    watch.check()
    assert deallocated(azure) == ["worker-1", "head"]


def test_what_azure_refuses_is_told_until_something_runs(root: Path, azure: type[Azure]) -> None:
    azure.refused = {"head"}
    watch = IdleWatch(str(root))
    with pytest.raises(UserError, match=r"head: .* answered 403"):
        watch.check()
    told = watch.tell()
    assert "answered 403" in told["refused"]
    line = status.idle_line(cast(idle.Idle, told), 60)
    assert line.startswith("Azure did not deallocate the VMs, and they cost money: head: ")
    with run_state.held(root):
        watch.check()
    assert watch.tell()["refused"] is None


def test_no_training_starts_on_vms_that_are_about_to_stop(
    root: Path, azure: type[Azure], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    monkeypatch.setattr(
        "bootstrap.node.azure.idle_watch.deallocate",
        lambda *_, **__: held.append(run_state.is_held(root)),
    )
    IdleWatch(str(root)).check()
    assert held == [True]


@pytest.mark.parametrize(
    ("told", "wanted", "line"),
    [
        ({"minutes": 0}, 0, ""),
        ({"minutes": 0}, 60, "idle_minutes is 60 in the stack and 0 on the head: fab bootstrap"),
        (
            {"minutes": 60, "busy": True, "due_in": 9.0, "awake_for": 0.0, "refused": None},
            60,
            "the VMs are deallocated when nothing has run for 60 min (idle_minutes)",
        ),
        (
            {"minutes": 60, "busy": False, "due_in": 7500.0, "awake_for": 0.0, "refused": None},
            60,
            "warning: nothing runs, and the VMs are deallocated in 2 h 5 min; fab stay-awake keeps"
            " them on",
        ),
    ],
)
def test_status_warns(told: idle.Idle, wanted: int, line: str) -> None:
    assert status.idle_line(told, wanted) == line


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """With an environment, and a crontab that holds a line of its owner's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "tab").write_text("5 4 * * * backup\n")
    (programs / "crontab").write_text(CRONTAB.format(file=tmp_path / "tab"))
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, value in node_variables().items():
        monkeypatch.setenv(name, value)
    root = tmp_path / ".xeon-diffusion"
    (root / "env" / "bin").mkdir(parents=True)
    python = root / "env" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return local_host(NODES[0], str(root))


def test_bootstrap_starts_and_ends_the_watch_as_the_stack_says(
    head: Host, azure: type[Azure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tab = tmp_path / "tab"
    idle.follow_config(head, CLUSTER)
    idle.follow_config(head, CLUSTER)
    backup, ours = tab.read_text().splitlines()
    assert backup == "5 4 * * * backup"
    assert ours.startswith(f"* * * * * {head.python} -P -m bootstrap.node.azure.idle_watch check ")
    assert [line for line in azure.asked if line.startswith("POST")] == []
    settings = Path(head.layout.idle) / "settings.json"
    assert json.loads(settings.read_text()) == {"minutes": 30, "vms": ["worker-1", "head"]}
    # What cron does, an hour later.
    os.utime(settings, (time.time() - HOUR,) * 2)
    command = ours.removeprefix("* * * * * ")
    uptime_counts = "import psutil; psutil.boot_time = lambda: 0.0\n"
    (tmp_path / "sitecustomize.py").write_text(uptime_counts)
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}
    subprocess.run(["sh", "-c", command], check=True, env=variables)
    log = (Path(head.layout.idle) / "log").read_text()
    assert deallocated(azure) == ["worker-1", "head"], log
    assert "nothing has run for 30 min" in log

    assert idle.told(head)["minutes"] == 30
    assert stay_awake.act(argparse.Namespace(hours=5.0), CLUSTER, [head]) == 0
    assert "stay on for 5 h" in capsys.readouterr().out
    assert idle.told(head).get("awake_for", 0.0) > 4 * HOUR

    idle.follow_config(head, dataclasses.replace(CLUSTER, idle_minutes=0))
    assert tab.read_text().splitlines() == ["5 4 * * * backup"]
    assert idle.told(head) == {"minutes": 0}


def test_a_head_that_was_set_up_before_there_was_a_watch_is_not_asked(head: Host) -> None:
    Path(head.python).unlink()
    assert idle.told(head) == {"minutes": 0}


def test_a_head_without_the_right_is_refused(head: Host, azure: type[Azure]) -> None:
    azure.refused = {"head"}
    with pytest.raises(UserError, match=r"^idle_minutes: head cannot deallocate the VMs"):
        idle.follow_config(head, CLUSTER)
