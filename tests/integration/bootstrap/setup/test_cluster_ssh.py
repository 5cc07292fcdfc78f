"""mpirun on one machine through what bootstrap leaves there: nothing stays open behind it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.setup import cluster_ssh
from bootstrap.setup.python.rank_environment import cluster_environment
from bootstrap.ssh.host import Host, local_host
from tests.local_cluster import training_environment

LISTENING = """
import psutil
found = psutil.Process().net_connections(kind="tcp")
print([each.laddr for each in found if each.status == psutil.CONN_LISTEN])
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A cluster of one machine."""
    made = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    cluster_ssh.set_up_single(made, Inventory("local", "local", (made.node,)))
    return made


@pytest.mark.parametrize("hosts", [[], ["-hosts", "127.0.0.1"]])
def test_ranks_inherit_no_port_of_mpiruns(hosts: list[str], host: Host) -> None:
    environment = training_environment()
    variables = cluster_environment(host.layout.root, master_address="127.0.0.1", interface=None)
    hydra = {name: value for name, value in variables.items() if name.startswith("I_MPI_HYDRA")}
    finished = subprocess.run(
        ["mpirun", *hosts, "-n", "2", environment / "bin" / "python", "-c", LISTENING],
        env={**os.environ, **hydra, "PATH": f"{environment}/bin:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == ["[]", "[]"]


def test_a_command_for_this_machine_runs_here_with_nothing_open(host: Host) -> None:
    with open(os.devnull, "rb") as left_open:
        line = ["-q", "-x", os.uname().nodename, "ls /proc/$$/fd;", "echo 'a  b'"]
        finished = subprocess.run(
            [host.layout.ssh, *line], pass_fds=[left_open.fileno()],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert finished.stdout.split("\n", 3) == ["0", "1", "2", "a  b\n"]
