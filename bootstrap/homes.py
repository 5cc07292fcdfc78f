"""Nodes that share one home folder: what lies there is set up by one of them, for all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bootstrap.transfer import script

if TYPE_CHECKING:
    from bootstrap.hosts import Host

MARKS = ".marks"
# $1: the folder for marks, $2: this node's.
MARK = 'mkdir -p "$1" && : > "$1/$2"'
# Looking at the folder's contents makes a network file system ask its server again.
SEEN = 'ls "$1" 2>/dev/null || :'


def keepers(seen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each node, who sets up its home: the first of those whose marks it sees.

    Args:
        seen: by node, in order, the nodes whose marks lie in its home; its own is one of them.
    """
    found: dict[str, str] = {}
    for name, names in seen.items():
        together = [other for other in seen if other in names and name in seen[other]]
        found[name] = together[0] if together else name
    return found


def find_keepers(hosts: Sequence[Host]) -> dict[str, str]:
    """Find out which nodes share a home; a node that shares none keeps its own.

    Raises:
        UserError: a node does not answer, or cannot write its home.
    """
    run = secrets.token_hex(4)
    marks = {host.node.name: f"{run}-{number}" for number, host in enumerate(hosts)}

    def mark(host: Host) -> None:
        folder = f"{host.layout.root}/{MARKS}"
        host.run(script(MARK, folder, marks[host.node.name]))

    def see(host: Host) -> list[str]:
        return host.run(script(SEEN, f"{host.layout.root}/{MARKS}")).stdout.split()

    def clear(host: Host) -> None:
        host.run(["rm", "-rf", f"{host.layout.root}/{MARKS}"], check=False)

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        list(pool.map(mark, hosts))
        found = list(pool.map(see, hosts))
        list(pool.map(clear, hosts))
    by_mark = {mark: name for name, mark in marks.items()}
    return keepers(
        {
            host.node.name: [by_mark[mark] for mark in lines if mark in by_mark]
            for host, lines in zip(hosts, found, strict=True)
        }
    )
