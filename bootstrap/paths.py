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


@dataclass(frozen=True)
class Layout:
    """Paths on a node; the same on every node.

    Attributes:
        root: an absolute path; everything that is ours lies under it.
    """

    root: str

    @property
    def env(self) -> str:
        """The environment: a link to the one in `envs` that is in use."""
        return f"{self.root}/env"

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return f"{self.env}/bin/python"

    @property
    def envs(self) -> str:
        """Environments, one per stack and lock."""
        return f"{self.root}/envs"

    @property
    def wheels(self) -> str:
        """What the head fetched or the person sent, for every node."""
        return f"{self.root}/wheels"

    @property
    def models(self) -> str:
        """Base models, one per folder."""
        return f"{self.root}/models"

    @property
    def data(self) -> str:
        """Pictures, one data set per folder."""
        return f"{self.root}/data"

    @property
    def cluster(self) -> str:
        """What nodes need to reach each other."""
        return f"{self.root}/cluster"

    @property
    def cluster_key(self) -> str:
        """The private key that nodes log in to each other with."""
        return f"{self.cluster}/id_ed25519"

    @property
    def known_hosts(self) -> str:
        """The host keys of every node."""
        return f"{self.cluster}/known_hosts"

    @property
    def ssh_config(self) -> str:
        """For `ssh -F`."""
        return f"{self.cluster}/ssh_config"

    @property
    def ssh(self) -> str:
        """`ssh` with that config: mpirun's -launcher-exec."""
        return f"{self.cluster}/ssh"

    @property
    def nodefile(self) -> str:
        """One address per line, head first: for `mpirun -f`."""
        return f"{self.cluster}/nodefile"

    @property
    def nodes_json(self) -> str:
        """Names, addresses and vCPUs, head first."""
        return f"{self.cluster}/nodes.json"

    @property
    def hub_token(self) -> str:
        """Only its owner may read it."""
        return f"{self.cluster}/hub_token"

    @property
    def hf(self) -> str:
        """HF_HOME."""
        return f"{self.root}/hf"

    @property
    def accelerate_config(self) -> str:
        """This node's own, where accelerate looks for it."""
        return f"{self.hf}/accelerate/default_config.yaml"

    @property
    def activate(self) -> str:
        """To be sourced: the environment of a training."""
        return f"{self.root}/activate"

    @property
    def runs(self) -> str:
        """Run directories."""
        return f"{self.root}/runs"

    def run(self, name: str) -> str:
        """One run's directory."""
        return f"{self.runs}/{name}"

    @property
    def given(self) -> str:
        """Files of the person's that programs on the head were given."""
        return f"{self.root}/given"

    @property
    def homes(self) -> str:
        """One file per node; nodes that see each other's share a home folder."""
        return f"{self.root}/homes"


def node_root(home: str) -> str:
    """Where things lie on a node whose home folder is `home`.

    `XEON_DIFFUSION_ROOT`, set on the person's machine, names another place for the folder, such as
    a scratch disk that every node has.

    Raises:
        UserError: conda, pip and oneCCL's scripts would stumble over that path.
    """
    asked = os.environ.get(ROOT_VARIABLE)
    parent = asked or home
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
