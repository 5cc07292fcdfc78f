"""`fab status` where a node does not answer: Azure is asked what the matter with it is."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from bootstrap.commands import status
from bootstrap.runs import runs_on_head
from bootstrap.ssh import connection
from tests.sshd import Sshd, become_person, serving

EVICTED = "is deallocated: paused, or a Spot VM that Azure has taken back"


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return become_person(tmp_path, monkeypatch)


@pytest.fixture
def head(tmp_path: Path, key: Path) -> Iterator[Sshd]:
    with serving(tmp_path / "head", key) as server:
        yield server


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that refuses."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 4)
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def flags(folder: Path, key: Path, **ports: int) -> list[str]:
    nodes = [
        {"name": name, "private_ip": "127.0.0.1", "port": port} for name, port in ports.items()
    ]
    outputs = {"user": getpass.getuser(), "ssh_private_key_path": str(key), "nodes": nodes}
    (folder / "mine.json").write_text(json.dumps(outputs))
    return ["--inventory", "mine.json", "--accept-host-keys"]


def in_azure(names: Sequence[str]) -> Mapping[str, str]:
    return dict.fromkeys(names, EVICTED)


def test_a_silent_worker(
    tmp_path: Path, key: Path, head: Sshd, nobody: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(runs_on_head, "all_runs", lambda head: [])
    assert status.main(flags(tmp_path, key, n0=head.port, n1=nobody), in_azure=in_azure) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"n1 {EVICTED}." in said
    assert f"n0 {EVICTED}" not in said


def test_a_silent_head(
    tmp_path: Path, key: Path, nobody: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(flags(tmp_path, key, n0=nobody), in_azure=in_azure) == 1
    assert capsys.readouterr().err.endswith(f"\nn0 {EVICTED}.\n")
