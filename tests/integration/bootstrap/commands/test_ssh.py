"""`fab ssh`: the real ssh, through real sshds on loopback ports, with the pinned keys alone."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.commands import ssh
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.read_inventory import read_inventory
from tests.sshd import Sshd, become_person, serving

CHECKOUT = Path(__file__).parents[4]
Fab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person with a key, an empty home folder and no agent."""
    return become_person(tmp_path, monkeypatch, "my 100% key")


@pytest.fixture
def nodes(tmp_path: Path, key: Path) -> Iterator[dict[str, Sshd]]:
    """A head and a worker."""
    with serving(tmp_path / "n0", key) as head, serving(tmp_path / "n1", key) as worker:
        yield {"n0": head, "n1": worker}


@pytest.fixture
def fab(tmp_path: Path, key: Path, nodes: dict[str, Sshd]) -> Fab:
    """fab(words): `fab ssh` with them, on a cluster whose name has a space."""
    outputs = {
        "user": getpass.getuser(),
        "ssh_private_key_path": str(key),
        "nodes": [
            {"name": name, "private_ip": "127.0.0.1", "port": node.port}
            for name, node in nodes.items()
        ],
    }
    (tmp_path / "my cluster.json").write_text(json.dumps(outputs))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "bootstrap.commands.ssh"]
        return subprocess.run(
            [*program, "--inventory", "my cluster.json", "--accept-host-keys", *words],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_the_head_and_a_worker_through_it(fab: Fab, nodes: dict[str, Sshd]) -> None:
    for name, words in (("n0", ()), ("n1", ("exit", "7"))):
        finished = fab(name, "echo in $HOME;", *words)
        assert f"in {nodes[name].home}\n" in finished.stdout, finished.stderr
        assert finished.returncode == (7 if words else 0)
    before = nodes["n0"].log.count("Accepted publickey")
    assert fab("n1", "true").returncode == 0
    assert nodes["n0"].log.count("Accepted publickey") == before + 1


def test_another_host_key_than_the_pinned_one_is_refused(fab: Fab, tmp_path: Path) -> None:
    assert fab("n1", "true").returncode == 0
    (pins,) = (tmp_path / ".cluster").glob("*/known_hosts")
    lines = {line.split(",")[0]: line for line in pins.read_text().splitlines()}
    of_head = lines["n0"].split(" ")
    pins.write_text(f"{lines['n0']}\nn1 {' '.join(of_head[1:])}\n")
    finished = fab("n1", "true")
    assert finished.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in finished.stderr


def test_a_node_that_there_is_not(fab: Fab) -> None:
    finished = fab("n7")
    assert finished.returncode == 1
    assert finished.stderr == "error: there is no node n7; the nodes are: n0, n1.\n"


def test_this_machine_needs_no_ssh() -> None:
    inventory: Inventory = read_inventory("local")
    with pytest.raises(UserError, match="is this machine"):
        ssh.chosen_node(inventory, "")
