"""A supervisor started over SSH outlives its connection; a second one says why it ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bootstrap.commands.train import start
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node import run_state
from bootstrap.node.job import Job, JobNode
from bootstrap.ssh.open_hosts import open_hosts
from tests.sshd import become_person, serving

SECONDS = 60
CHECKOUT = Path(__file__).parents[4]


def test_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = become_person(tmp_path, monkeypatch)
    with serving(tmp_path / "sshd", key) as server:
        node = Node("n0", server.address, server.port)
        cluster = Inventory("one", "file", (node,), ssh_private_key_path=key)
        root = server.home / ".xeon-diffusion"
        (root / "env" / "bin").mkdir(parents=True)
        for name, text in {
            "python": f'PYTHONPATH={CHECKOUT} exec {sys.executable} "$@"',
            "mpirun": f"while [ ! -e {root}/go ]; do sleep 0.05; done",
        }.items():
            (root / "env" / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (root / "env" / "bin" / name).chmod(0o755)
        job = Job("x", str(root), (JobNode("n0", server.address, 1),), ())
        with open_hosts(cluster, lambda question: True) as (host,):
            start(host, job)
            with pytest.raises(UserError, match="another training is running"):
                start(host, job)
        server.cut()
        assert run_state.is_live(run_state.read_state(job.folder))
        (root / "go").touch()
        end = time.monotonic() + SECONDS
        while run_state.is_live(run_state.read_state(job.folder)):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert run_state.read_state(job.folder)["phase"] == "done"
    assert "[supervisor" in (job.folder / run_state.LOG).read_text()
