"""A rig is gone afterwards, however it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import anchors, slots
from tests.rig.commands import RigError
from tests.rig.rig import remove_abandoned, rig_of, up

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.rig


@pytest.fixture(autouse=True)
def _nothing_abandoned() -> None:
    """What earlier runs left (they were killed, say) is not taken for a trace that these remove."""
    remove_abandoned()


def traces() -> dict[str, object]:
    """Everything on this machine that a rig could leave behind."""
    namespaces = set()
    for process in Path("/proc").glob("[0-9]*/ns/*"):
        if process.name in ("net", "mnt", "pid", "uts", "ipc"):
            try:
                namespaces.add(os.readlink(process))
            except OSError:
                continue
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(Path("/proc/mounts").read_text().splitlines()),
        "marked": anchors.find(""),
        "namespaces": namespaces,
        "images": subprocess.run(["losetup", "-a"], capture_output=True, check=True).stdout,
        "slots": slots.used(),
    }


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    before = traces()
    with rig_of(2, rate="1gbit", home_size="32M") as rig:
        rig.workers[0].block(rig.head)
        rig.head.run("(nohup sleep 600 >/dev/null 2>&1 &)")
        assert traces() != before
        folder = rig.folder
    assert traces() == before
    assert not folder.exists()


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = traces()
    broken = tmp_path / "boot.sh"
    broken.write_text('[ "$2" = vm-rig-0 ] || { echo "no more memory" >&2; exit 1; }\n')
    broken.write_text(broken.read_text() + (ROOT / "tests/rig/boot.sh").read_text())
    monkeypatch.setattr("tests.rig.host.BOOT", broken)
    with pytest.raises(RigError, match="no more memory"):
        up(2)
    assert traces() == before


def test_bad_settings_are_refused() -> None:
    before = traces()
    with pytest.raises(RigError, match="1 to 8 hosts, not 9"):
        up(9)
    with pytest.raises(RigError, match="'fast' is not a rate"):
        up(1, rate="fast")
    assert traces() == before


def command(*words: str, inventory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.rig", *words, "--inventory", str(inventory)]


def typed(*words: str, inventory: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the rig as a person would."""
    argv = command(*words, inventory=inventory)
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=check)


def test_up_and_down_as_a_person_types_it(tmp_path: Path) -> None:
    before = traces()
    path = tmp_path / "rig.json"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    try:
        brought = typed("up", "--hosts=2", f"--wheels={wheels}", inventory=path)
        inventory = json.loads(path.read_text())
        assert inventory["rig"]["package_index_url"] in brought.stdout
        hello = [*inventory["ssh_command"].split(), "hostname"]
        assert subprocess.check_output(hello, text=True) == "vm-rig-0\n"
        again = typed("up", inventory=path, check=False)
        assert (again.returncode, again.stdout) == (1, "")
        assert "A rig is up already" in again.stderr
        typed("kill", "1", inventory=path)
        status = typed("status", inventory=path).stdout
        assert [line.split()[3] for line in status.splitlines()] == ["on", "off"]
    finally:
        typed("down", inventory=path)
    assert not path.exists()
    assert traces() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_cut_short(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM clean up; after SIGKILL `down` does, without an inventory to go by."""
    before = traces()
    path = tmp_path / "rig.json"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    process = subprocess.Popen(
        command("up", "--hosts=8", f"--wheels={wheels}", inventory=path),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not hosts_of(path):
        assert process.poll() is None
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert traces() != before
        subprocess.run(command("down", inventory=path), cwd=ROOT, check=True)
    else:
        assert process.returncode == 130
        assert "Traceback" not in said
    assert not path.exists()
    assert traces() == before


def test_a_rig_whose_tests_were_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    before = traces()
    script = "import os, signal; from tests.rig.rig import up; up(1); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert traces() != before
    remove_abandoned()
    assert traces() == before


def test_a_removal_that_was_killed_is_finished_by_the_next() -> None:
    before = traces()
    rig = up(1)
    (rig.folder / "state.json").unlink()
    slots.give_back(slots.take(slots.State(1)))
    remove_abandoned()
    assert traces() == before
    assert not rig.folder.exists()
    assert not list(slots.BASE.glob("gone-*"))


def hosts_of(inventory: Path) -> list[int]:
    """The processes of the hosts that are being brought up for an inventory."""
    return [
        pid
        for slot in slots.used()
        if (state := slots.read(slot)) and state.inventory == str(inventory)
        for pid in anchors.find(f"{slot}/host")
    ]
