"""Forget a node's host key, after it was replaced: the next command shows the new one and asks.

Do this only when you know why the key has changed: a node that `pulumi up` made anew has a new
one, and so has a machine that was installed anew. Nothing is sent to any node by this command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import UserError
from bootstrap.ssh import host_keys
from bootstrap.terminal import exit_status, say


def forget(node: str, cluster: str | None = None) -> list[Path]:
    """Unpin a node in one cluster, or in all that know it; returns the files that changed.

    Raises:
        UserError: no cluster knows it; the names that are known are listed.
    """
    pins = host_keys.pins_of(cluster)
    changed = [pin.file for pin in pins if pin.forget(node)]
    if not changed:
        known = [f"{name} ({pin.file})" for pin in pins for name in pin.names()]
        raise UserError(
            f"No cluster here knows a node named {node}."
            + (f" Known: {', '.join(known)}." if known else " No host key is pinned yet.")
        )
    return changed


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """`fab forget-host --node NAME`, or `--all`."""
    parser = argparse.ArgumentParser(
        prog="fab forget-host", description=__doc__, allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", help="its name, as the message has it")
    which.add_argument("--all", action="store_true", help="every node; a copy stays beside")
    parser.add_argument("--cluster", help="only in this one: a folder's name in .cluster/")
    chosen = parser.parse_args(argv)
    if chosen.all:
        changed = host_keys.forget_all(chosen.cluster)
        for file in changed:
            say(f"All of {file} is forgotten; it is {file.name}.old now.")
        if not changed:
            say("No host key is pinned; nothing was forgotten.")
        return 0
    for file in forget(chosen.node, chosen.cluster):
        say(f"{chosen.node} is forgotten in {file}.")
    return 0
