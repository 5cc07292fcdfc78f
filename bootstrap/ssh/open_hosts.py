"""The nodes of an inventory, connected: over SSH, or this machine itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bootstrap.inventory.inventory import Inventory
from bootstrap.paths import records
from bootstrap.ssh.host import Ask, Host, LocalHost
from bootstrap.ssh.node_log import logging_to
from bootstrap.terminal import say


@contextmanager
def open_hosts(inventory: Inventory, ask: Ask, **how: Any) -> Iterator[list[Host]]:
    """Connect to every node; the head is the first of the list.

    A node that cannot be reached is in the list too, and says why in `unreachable`.

    Args:
        inventory: the nodes.
        ask: a question with the fingerprints of hosts met for the first time; True: go on.
        how: see `ssh_host.connect_all`. What is waited for is said on standard error.
    """
    if inventory.kind == "local":
        hosts: list[Host] = [LocalHost(inventory.head)]
    else:
        from bootstrap.ssh.ssh_host import (
            connect_all,  # Nodes, which need no fabric, read this module.
        )

        how.setdefault("on_silence", partial(say, error=True))
        hosts = connect_all(inventory, ask, **how)
    with logging_to(records(inventory.name).logs, hosts):
        try:
            yield hosts
        finally:
            for host in reversed(hosts):
                host.close()
