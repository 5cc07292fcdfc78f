"""`fab clean` while a worker does not answer: what it waits for, what is gone, what is left."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.commands import clean
from bootstrap.ssh import connection, open_hosts
from tests.sshd import Sshd, become_person, serving


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person with a key, an empty home folder and no agent."""
    return become_person(tmp_path, monkeypatch)


@pytest.fixture
def head(tmp_path: Path, key: Path) -> Iterator[Sshd]:
    with serving(tmp_path / "head", key) as server:
        (server.home / ".xeon-diffusion" / "runs" / "dicoo").mkdir(parents=True)
        yield server


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a machine that takes connections and says nothing."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 4)
    monkeypatch.setattr(open_hosts, "QUIET_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def inventory(path: Path, key: Path, **ports: int) -> str:
    nodes = [
        {"name": name, "private_ip": "127.0.0.1", "port": port} for name, port in ports.items()
    ]
    outputs = {"user": getpass.getuser(), "ssh_private_key_path": str(key), "nodes": nodes}
    path.write_text(json.dumps(outputs))
    return path.name


def test_a_dead_worker_is_named_while_it_is_waited_for_and_at_the_end(
    tmp_path: Path, key: Path, head: Sshd, silent: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = inventory(tmp_path / "mine.json", key, n0=head.port, n1=silent)
    words = ["--inventory", name, "--yes", "--accept-host-keys"]
    assert clean.main(words) == 1
    said = capsys.readouterr()
    assert "n1 has not answered yet; it is given " in said.err
    assert "error: n1 (" in said.err
    assert "Not from these, which do not answer: n1" in said.out
    assert said.out.endswith(
        "clean: n0\nnot clean: n1. When that is fixed, continue with:"
        " fab clean --inventory mine.json\n"
    )
    assert not (head.home / ".xeon-diffusion").exists()


def test_where_no_node_answers_nothing_is_said_to_be_removed(
    tmp_path: Path, key: Path, silent: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = inventory(tmp_path / "mine.json", key, n0=silent)
    assert clean.main(["--inventory", name, "--yes"]) == 1
    said = capsys.readouterr()
    assert "error: no node answers; nothing was removed.\nn0 (" in said.err
    assert said.out == ""
