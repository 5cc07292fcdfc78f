"""A nodefile: one `user@host:port` per line, the head first, `#` starts a comment.

What a line does not say is taken from ~/.ssh/config.
"""

from __future__ import annotations

import getpass
import re
from pathlib import Path

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node, cluster_name
from bootstrap.inventory.user_ssh_config import person_config

LINE = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?::(?P<port>\d+))?"
)


def read_nodefile(path: Path, text: str) -> Inventory:
    """The machines of a nodefile.

    Raises:
        UserError: naming every line that is wrong.
    """
    config = person_config()
    nodes: list[Node] = []
    lines: dict[tuple[str, int], int] = {}
    problems: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = LINE.fullmatch(line)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or (port is not None and not 0 < port < 65536):
            problems.append(f"line {number}: {line!r} is not user@host:port")
            continue
        known = config.lookup(match["host"])
        node = Node(
            name=match["host"] + (f":{port}" if port else ""),
            address=known.get("hostname", match["host"]),
            port=port or int(known.get("port", 22)),
            user=match["user"] or known.get("user", getpass.getuser()),
            ssh_host=match["host"],
        )
        before = lines.setdefault((node.address, node.port), number)
        if before != number:
            problems.append(f"line {number}: {line!r} is the machine of line {before}")
            continue
        nodes.append(node)
    if not nodes and not problems:
        problems.append("there is no line that names a machine")
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(
            f"{path} is not a nodefile:\n{listed}\nIt holds one machine per line, the head first,"
            " such as anna@10.0.0.4:22; the user and the port may be left out, # starts a comment."
        )
    return Inventory(cluster_name(path), "nodefile", tuple(nodes), user=nodes[0].user)
