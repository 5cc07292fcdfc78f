"""The one line of ~/.ssh/authorized_keys that is the cluster's; all others let somebody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.errors import CommandFailed
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.setup import cluster_ssh
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host, local_host

FOREIGN = (
    b"ssh-ed25519 AAA anna@m\xfcller\n",  # Latin-1, and what a crashed editor has left
    b"ssh-ed25519 BBB bob\0\n",
    b"# a comment that ends in xeon-diffusion:other\n",
    b"ssh-ed25519 CCC carol",
)
OURS = "restrict ssh-ed25519 DDD xeon-diffusion:c"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (tmp_path / ".ssh").mkdir()
    return local_host(Node("n0", "127.0.0.1"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / ".ssh" / "authorized_keys"


def authorize(host: Host, line: str) -> None:
    host.run(script(cluster_ssh.AUTHORIZE, "xeon-diffusion:c", line))


def leave(host: Host) -> None:
    cluster_ssh.remove(host, Inventory("c", "file", (host.node,)))


def test_lines_in_any_encoding_stay_and_ours_goes_again(host: Host, keys: Path) -> None:
    before = b"".join(FOREIGN) + b"\n"
    keys.write_bytes(before.removesuffix(b"\n"))
    keys.chmod(0o640)
    authorize(host, OURS)
    assert keys.read_bytes() == before + OURS.encode() + b"\n"
    inode = keys.stat().st_ino
    authorize(host, OURS)
    assert keys.stat().st_ino == inode
    authorize(host, OURS.replace("DDD", "EEE"))
    assert keys.read_bytes() == before + OURS.replace("DDD", "EEE").encode() + b"\n"
    leave(host)
    assert keys.read_bytes() == before
    assert keys.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in keys.parent.iterdir()] == [keys.name]


def test_a_file_that_is_not_there_is_made_only_for_a_line(host: Host, keys: Path) -> None:
    leave(host)
    assert not keys.exists()
    authorize(host, OURS)
    assert keys.read_text() == f"{OURS}\n"
    leave(host)
    assert keys.read_text() == ""


@pytest.mark.parametrize("way", ["exit 2", '/bin/grep "$@" | head -n 1'])
def test_where_the_tool_fails_nothing_is_written(
    host: Host, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    before = b"".join(FOREIGN) + b"\n" + OURS.encode() + b"\n"
    keys.write_bytes(before)
    grep = tmp_path / "bin" / "grep"
    grep.parent.mkdir()
    grep.write_text(f'#!/bin/sh\ncase "$*" in *-v*) {way} ;; *) exec /bin/grep "$@" ;; esac\n')
    grep.chmod(0o755)
    monkeypatch.setenv("PATH", f"{grep.parent}:/usr/bin:/bin")
    with pytest.raises(CommandFailed):
        leave(host)
    assert keys.read_bytes() == before
    assert [path.name for path in keys.parent.iterdir()] == [keys.name]
