"""What a node's first boot sets: security upgrades go on, but not under a run."""

from __future__ import annotations

import base64
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.program.cloud_init import custom_data


@pytest.fixture
def document() -> dict[str, Any]:
    text = base64.b64decode(custom_data()).decode()
    assert text.startswith("#cloud-config\n")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def condition(document: dict[str, Any]) -> list[str]:
    """The command of the upgrade's drop-in."""
    [content] = [
        file["content"]
        for file in document["write_files"]
        if "/apt-daily-upgrade.service.d/" in file["path"]
    ]
    section, setting = content.strip().splitlines()
    assert section == "[Service]"
    return shlex.split(setting.removeprefix("ExecCondition="))


def test_nothing_switches_the_upgrades_off(document: dict[str, Any]) -> None:
    commands = [*document.get("bootcmd", []), *document["runcmd"]]
    assert commands == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "restart", "apt-daily-upgrade.timer"],
    ]


@pytest.mark.parametrize(
    ("running", "upgrades"),
    [
        ([], True),
        (["/usr/sbin/sshd", "-D"], True),
        (["/opt/env/bin/python", "-P", "-m", "training.textual_inversion", "--seed=7"], False),
        (["/home/a/.xeon-diffusion/env/bin/mpirun", "-n", "4"], False),
        (
            ["/home/a/.xeon-diffusion/env/bin/python", "-P", "-m", "bootstrap.node.supervisor"],
            False,
        ),
    ],
)
def test_they_wait_while_something_of_ours_runs(
    running: list[str], upgrades: bool, document: dict[str, Any], tmp_path: Path
) -> None:
    command = condition(document)
    for number, words in enumerate((["/sbin/init"], command, running)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_bytes(
            b"".join(word.encode() + b"\0" for word in words)
        )
    here = [word.replace("/proc/", f"{tmp_path}/") for word in command]
    assert here != command
    assert (subprocess.run(here, check=False).returncode == 0) is upgrades


def test_a_real_process_is_seen(document: dict[str, Any]) -> None:
    words = [sys.executable, "-c", "input()", "training.textual_inversion"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert subprocess.run(condition(document), check=False).returncode == 1
        process.communicate(b"\n")
