"""Where things lie: on a node, and on the person's machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bootstrap.errors import UserError

CHECKOUT = Path(__file__).parent.parent
ROOT_NAME = ".xeon-diffusion"
ROOT_VARIABLE = "XEON_DIFFUSION_ROOT"


class _Under:
    """A path below another one of the layout."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name

    def __get__(self, layout: Layout, owner: type) -> str:
        return f"{getattr(layout, self.folder)}/{self.name}"


@dataclass(frozen=True)
class Layout:
    """Paths on a node; the same on every node.

    Attributes:
        root: an absolute path; everything that is ours lies under it.
    """

    root: str

    env = _Under("root", "env")
    """The environment: a link to the one in `envs` that is in use."""
    python = _Under("env", "bin/python")
    """The environment's interpreter."""
    envs = _Under("root", "envs")
    """Environments, one per stack and lock."""
    wheels = _Under("root", "wheels")
    """What the head fetched or the person sent, for every node."""
    models = _Under("root", "models")
    """Base models, one per folder."""
    data = _Under("root", "data")
    """Pictures, one data set per folder."""
    cluster = _Under("root", "cluster")
    """What nodes need to reach each other."""
    cluster_key = _Under("cluster", "id_ed25519")
    """The private key that nodes log in to each other with."""
    known_hosts = _Under("cluster", "known_hosts")
    """The host keys of every node."""
    ssh_config = _Under("cluster", "ssh_config")
    """For `ssh -F`."""
    ssh = _Under("cluster", "ssh")
    """`ssh` with that config: mpirun's -launcher-exec."""
    nodefile = _Under("cluster", "nodefile")
    """One address per line, head first: for `mpirun -f`."""
    nodes_json = _Under("cluster", "nodes.json")
    """Names, addresses and vCPUs, head first."""
    hub_token = _Under("cluster", "hub_token")
    """Only its owner may read it."""
    hf = _Under("root", "hf")
    """HF_HOME."""
    accelerate_config = _Under("hf", "accelerate/default_config.yaml")
    """This node's own, where accelerate looks for it."""
    activate = _Under("root", "activate")
    """To be sourced: the environment of a training."""
    runs = _Under("root", "runs")
    """Run directories."""
    tuned = _Under("root", "tuned")
    """What `fab tune` found, one file per method, on the head."""
    given = _Under("root", "given")
    """Files of the person's that programs on the head were given."""
    idle = _Under("root", "idle")
    """What watches that the VMs do not idle, on the head (`idle_minutes`)."""
    homes = _Under("root", "homes")
    """One file per node; nodes that see each other's share a home folder."""

    def run(self, name: str) -> str:
        """One run's directory."""
        return f"{self.runs}/{name}"


def node_root(home: str, data_folder: str | None = None) -> str:
    """Where things lie on a node whose home folder is `home`.

    `XEON_DIFFUSION_ROOT`, set on the person's machine, names another place for the folder, such as
    a scratch disk that every node has; else it is in the cluster's data folder, if it has one.

    Raises:
        UserError: conda, pip and oneCCL's scripts would stumble over that path.
    """
    asked = os.environ.get(ROOT_VARIABLE)
    parent = asked or data_folder or home
    if not re.fullmatch(r"/[A-Za-z0-9._/~+-]*", parent):
        where = f"{ROOT_VARIABLE} is" if asked else "the home folder is said to be"
        raise UserError(
            f"{where} {parent!r}, but conda and oneCCL's scripts need an absolute path of letters,"
            f" digits and . _ / ~ + - alone. Set {ROOT_VARIABLE}=/such/a/folder, one that every"
            " node has, on this machine."
        )
    return f"{parent.rstrip('/')}/{ROOT_NAME}"


@dataclass(frozen=True)
class Records:
    """Paths on the person's machine for one cluster: `.cluster/<name>` in the checkout.

    Attributes:
        folder: all of it.
    """

    folder: Path

    @property
    def known_hosts(self) -> Path:
        """Host keys that the person has accepted."""
        return self.folder / "known_hosts"

    @property
    def logs(self) -> Path:
        """One log a node: every command and everything that it printed."""
        return self.folder / "logs"

    @property
    def fetched(self) -> Path:
        """What of which run has come home."""
        return self.folder / "fetched.json"


def records(cluster_name: str) -> Records:
    """The folder of a cluster, relative to where commands are run: the checkout."""
    return Records(Path(".cluster") / cluster_name)
