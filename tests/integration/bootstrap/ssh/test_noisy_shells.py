"""Nodes whose ~/.bashrc prints: what is read over a real sshd, or from node to node, is as ever."""

from __future__ import annotations

import dataclasses
import getpass
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node.job import Job, JobNode
from bootstrap.node.worker_nodes import WorkerNodes
from bootstrap.paths import records
from bootstrap.setup import cluster_ssh
from bootstrap.ssh.command import bash_script, script
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import Pins
from bootstrap.ssh.open_hosts import open_hosts
from tests.sshd import Sshd, make_key, serving

NOISY = {
    "greets": (
        'echo "error: welcome"; echo careful >&2\n'
        "head -c 300000 /dev/zero | tr '\\0' x; printf '\\0\\377\\n[]\\0'\n"
    ),
    "shows-commands": "set -x\n",
    "in-every-bash": "echo here; export BASH_ENV=~/.bashrc; trap 'echo bye; echo bye >&2' EXIT\n",
}


WORKER = "2130706434"
"""127.0.0.2, written so that nodes do not take it for the machine that they run on: what goes to
127.* is run there, without SSH."""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sshd]]:
    """Two, at two addresses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = make_key(tmp_path / "person" / "key")
    with ExitStack() as running:
        yield [
            running.enter_context(serving(tmp_path / f"n{number}", key, address=address))
            for number, address in enumerate(("127.0.0.1", "127.0.0.2"))
        ]


def inventory_of(servers: list[Sshd]) -> Inventory:
    head, worker = servers
    nodes = (
        Node(head.folder.name, head.address, port=head.port),
        Node(worker.folder.name, WORKER, port=worker.port),
    )
    key = Path(os.environ["HOME"]) / "key"
    return Inventory("t", "file", nodes, user=getpass.getuser(), ssh_private_key_path=key)


@pytest.fixture(params=NOISY)
def hosts(servers: list[Sshd], request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    for server in servers:
        (server.home / ".bashrc").write_text(NOISY[request.param])
    with open_hosts(inventory_of(servers), lambda question: True) as opened:
        assert [host.unreachable for host in opened] == [None, None]
        yield opened


def test_what_is_read_is_what_was_printed(hosts: list[Host], tmp_path: Path) -> None:
    for host in hosts:
        logged: list[str] = []
        host = dataclasses.replace(host, log=logged.append)
        lines: list[str] = []
        finished = host.run(
            "cat; echo out; echo err >&2; exit 3", stdin=b"in\n", on_line=lines.append, check=False
        )
        assert (finished.exit_code, finished.stdout, finished.stderr) == (3, "in\nout\n", "err\n")
        assert sorted(lines) == ["err", "in", "out"]
        assert host.run(bash_script('printf %s "$1"', "a b")).stdout == "a b"
        blob = os.urandom(100_000)
        path = f"{host.layout.root}/blob"
        host.write(path, blob)
        assert host.read(path) == blob
        back = tmp_path / "back" / host.name
        host.fetch(path, back)
        assert back.read_bytes() == blob
        if "echo" in (Path(host.layout.root).parent / ".bashrc").read_text().split()[0]:
            assert any(line.startswith("(its shell, before) ") for line in logged)


def test_from_node_to_node(hosts: list[Host], servers: list[Sshd]) -> None:
    inventory = inventory_of(servers)
    pins = Pins(records(inventory.name).known_hosts)
    keys = {host.name: pins.of(host.name) for host in hosts}
    assert cluster_ssh.set_up(hosts, inventory, keys, lambda host, text: None) == {}
    head, worker = hosts
    ssh = [head.layout.ssh, worker.node.address]
    home = str(Path(worker.layout.root).parent)
    assert head.run([*ssh, 'printf %s "$HOME"']).stdout == home, "it did not go there"
    for words, code, printed in (
        (["printf", "%s", "'it;s'"], 0, "it;s"),  # joined, as ssh joins them
        ([script('printf "%s" "$1"; exit 7', "it's; &")], 7, "it's; &"),
        (["exit 7"], 7, ""),
        (["cd /\npwd; echo lost >&2"], 0, "/\n"),
        ([bash_script("echo inner")], 0, "inner\n"),
    ):
        finished = head.run([*ssh, *words], check=False)
        assert (finished.exit_code, finished.stdout) == (code, printed)
    options = [ssh[0], "-q", "-x", "-o", "LogLevel=ERROR", ssh[1]]
    assert head.run([*options, "echo", "hi"]).stdout == "hi\n"
    blob = os.urandom(300_000)
    there_and_back = head.run(f"{' '.join(ssh)} cat | sha256sum", stdin=blob).stdout
    assert there_and_back == head.run("sha256sum", stdin=blob).stdout
    nodes = tuple(JobNode(host.name, host.node.address, 1) for host in hosts)
    job = Job("x", head.layout.root, nodes, (), ssh=head.layout.ssh)
    assert WorkerNodes(job).ask(nodes[1], ["printf", "%s", '{"a": 1}']) == '{"a": 1}'
    assert WorkerNodes(job).ask(nodes[1], ["false"]) is None


@pytest.mark.parametrize(
    ("start_up", "code"), [("echo closed today; exit 3", 3), ("echo closed today; exec true", 0)]
)
def test_a_shell_that_runs_nothing_is_said(servers: list[Sshd], start_up: str, code: int) -> None:
    (servers[1].home / ".bashrc").write_text(start_up)
    with open_hosts(inventory_of(servers), lambda question: True) as (head, worker):
        assert head.unreachable is None
        said = str(worker.unreachable)
        assert f"n1: the shell there ended with {code} before it ran anything:" in said
        assert "closed today" in said
        assert "~/.bashrc" in said
