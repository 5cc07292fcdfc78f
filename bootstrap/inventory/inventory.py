"""A cluster: its nodes, and how they are reached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bootstrap.errors import UserError

FILE_NAME = re.compile(r"[\w(][\w .()+@,-]{0,89}")


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        name: what messages and logs call it.
        address: what the nodes use among themselves.
        port, user: of its SSH; an empty user: whom ~/.ssh/config or this account says.
        public_address: where it is reached from outside; None: through the head.
        vcpus, size: as the cloud calls them; None where nobody has said.
        ssh_host: what the person's ~/.ssh/config may know it as; "": its address.
    """

    name: str
    address: str
    port: int = 22
    user: str = ""
    public_address: str | None = None
    vcpus: int | None = None
    size: str | None = None
    ssh_host: str = ""


@dataclass(frozen=True)
class Inventory:
    """A cluster.

    Attributes:
        name: names its folder in `.cluster/`.
        kind: where this was read.
        nodes: the head first.
        user: on every node that names no other.
        gateway: where the head is reached from outside; None: at its own address.
        ssh_private_key_path: None: the agent, ~/.ssh/config or the usual files.
        price_per_hour_usd, price_as_of: of all of it, and when that was read; None: unknown.
        resource_group: in Azure.
        data_folder: for what is ours, on the head a disk that outlives it; None: the home folder.
        idle_minutes: after how many minutes without a run the VMs deallocate themselves; 0: never.
    """

    name: str
    kind: Literal["stack", "file", "nodefile", "local"]
    nodes: tuple[Node, ...]
    user: str = ""
    gateway: str | None = None
    ssh_private_key_path: Path | None = None
    price_per_hour_usd: float | None = None
    price_as_of: str | None = None
    resource_group: str | None = None
    data_folder: str | None = None
    idle_minutes: int = 0

    @property
    def head(self) -> Node:
        """The node that is reached from outside and that runs are started on."""
        return self.nodes[0]

    @property
    def workers(self) -> tuple[Node, ...]:
        """All others."""
        return self.nodes[1:]


def cluster_name(path: Path) -> str:
    """What a cluster without a resource group is called: after its file.

    Raises:
        UserError: the file's name cannot be a folder's and end a line of authorized_keys.
    """
    if not FILE_NAME.fullmatch(path.stem):
        raise UserError(
            f"{str(path)!r}: the cluster would be called after this file, and so would its folder"
            " in .cluster/: rename it to letters, digits, spaces and .()+@,-_ (at most 90,"
            " beginning with a letter or a digit)."
        )
    return path.stem
