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

from infra.program.cloud_init import MOUNT_DATA, custom_data


@pytest.fixture
def document() -> dict[str, Any]:
    text = base64.b64decode(custom_data("ana")).decode()
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
        ["systemctl", "enable", "--now", "mount-data.service"],
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


def test_one_that_waited_is_tried_again_within_the_hour(document: dict[str, Any]) -> None:
    [content] = [
        file["content"]
        for file in document["write_files"]
        if "/apt-daily-upgrade.timer.d/" in file["path"]
    ]
    section, *settings = content.strip().splitlines()
    assert section == "[Timer]"
    # The empty one takes away the image's own, which is once a day.
    times = [each for each in settings if each.startswith("OnCalendar=")]
    assert times == ["OnCalendar=", "OnCalendar=hourly"]


def test_a_real_process_is_seen(document: dict[str, Any]) -> None:
    words = [sys.executable, "-c", "input()", "training.textual_inversion"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert subprocess.run(condition(document), check=False).returncode == 1
        process.communicate(b"\n")


def mount_data(folder: Path, blkid: int, device: bool = True) -> list[str]:
    """What the script of the data disk runs, where blkid ends so; stand-ins note their words."""
    script = folder / "mount-data"
    script.write_text(MOUNT_DATA)
    for name, status in (("blkid", blkid), ("mkfs.ext4", 0), ("mountpoint", 1), ("mount", 0),
                         ("resize2fs", 0), ("chown", 0)):  # fmt: skip
        tool = folder / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/ran\nexit {status}\n')
        tool.chmod(0o755)
    if device:
        (folder / "disk").touch()
    words = [
        "sh",
        str(script),
        str(folder / "data"),
        "ana",
        str(folder / "no"),
        str(folder / "disk"),
    ]
    subprocess.run(words, env={"PATH": f"{folder}:/usr/bin:/bin"}, check=False)
    ran = (folder / "ran").read_text().replace(f"{folder}/", "")
    return [line.split()[0] for line in ran.splitlines()]


@pytest.mark.parametrize(
    ("blkid", "ran"),
    [
        (2, ["blkid", "mkfs.ext4", "mountpoint", "mount", "resize2fs", "chown"]),
        (0, ["blkid", "mountpoint", "mount", "resize2fs", "chown"]),
        # An I/O error, or two signatures: no reason to write to it.
        (4, ["blkid"]),
        (8, ["blkid"]),
    ],
)
def test_a_data_disk_is_formatted_only_where_it_is_empty(
    blkid: int, ran: list[str], tmp_path: Path
) -> None:
    assert mount_data(tmp_path, blkid) == ran


def test_without_a_data_disk_the_folder_is_there_all_the_same(tmp_path: Path) -> None:
    assert mount_data(tmp_path, 0, device=False) == ["chown"]
    assert (tmp_path / "data").is_dir()


def test_the_folder_belongs_to_the_nodes_user(document: dict[str, Any]) -> None:
    [unit] = [one for one in document["write_files"] if one["path"].endswith("mount-data.service")]
    assert "mount-data /data ana /dev/disk/azure/data/by-lun/0" in unit["content"]
    [script] = [one for one in document["write_files"] if one["path"].endswith("bin/mount-data")]
    assert script["content"] == MOUNT_DATA
