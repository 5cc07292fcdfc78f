"""`fab ssh [NODE [COMMAND ...]]`: your own ssh to a node, as `fab` reaches it; default: the head.

Workers are reached through the head. Only the host keys that are pinned in .cluster/ are accepted,
and your agent is not forwarded.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.inventory.last_inventory import inventory_or_last
from bootstrap.inventory.user_ssh_config import person_config
from bootstrap.paths import records
from bootstrap.ssh.host_keys import Pins
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.terminal import exit_status


def chosen_node(inventory: Inventory, name: str) -> Node:
    """The node of that name; "": the head.

    Raises:
        UserError: there is none, or it is this machine.
    """
    if inventory.kind == "local":
        raise UserError("--inventory local is this machine: there is nothing to log in to.")
    for node in inventory.nodes:
        if node.name == name or not name:
            return node
    names = ", ".join(node.name for node in inventory.nodes)
    raise UserError(f"there is no node {name}; the nodes are: {names}.")


def command(inventory: Inventory, node: Node) -> list[str]:
    """The words of ssh to a node."""
    is_head = node == inventory.head
    host = node.ssh_host or node.address
    if is_head and inventory.gateway:
        host = inventory.gateway
    user = node.user or inventory.user
    options = [
        f"UserKnownHostsFile={_path(records(inventory.name).known_hosts)}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"HostKeyAlias={node.name}",
        "ForwardAgent=no",
    ]
    own = person_config().lookup(host)
    if not is_head and not {"proxyjump", "proxycommand"} & set(own):
        # Its %h and %p are this ssh's; every other % is a character.
        program, *words = (word.replace("%", "%%") for word in command(inventory, inventory.head))
        options.append(f"ProxyCommand={program} -W '[%h]:%p' {shlex.join(words)}")
    if inventory.ssh_private_key_path:
        options.append(f"IdentityFile={_path(inventory.ssh_private_key_path)}")
    return [
        "ssh",
        *(word for option in options for word in ("-o", option)),
        *(["-p", str(node.port)] if node.port != 22 else []),
        *(["-l", user] if user else []),
        host,
    ]


def _path(path: Path) -> str:
    """A file's name as the value of one of ssh's options: blanks and % are characters."""
    return f'"{str(path).replace("%", "%%")}"'


def pin(inventory: Inventory, node: Node, chosen: argparse.Namespace) -> None:
    """Ask about host keys that are not pinned yet, as every command does.

    Raises:
        UserError: a key was not accepted, or the node does not answer.
    """
    pins = Pins(records(inventory.name).known_hosts)
    needed = tuple(dict.fromkeys((inventory.head, node)))
    if all(pins.of(each.name) for each in needed):
        return
    asked = dataclasses.replace(inventory, nodes=needed)
    with open_hosts(asked, command_line.question_of(chosen)) as hosts:
        for host in hosts:
            if host.unreachable is not None:
                raise host.unreachable


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """`fab ssh`; this process becomes ssh."""
    parser = command_line.parser("ssh", __doc__, run=False)
    parser.add_argument("node", nargs="?", default="", help="its name; default: the head")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="default: a shell")
    chosen = parser.parse_args(argv)
    inventory = inventory_or_last(chosen.inventory)
    node = chosen_node(inventory, chosen.node)
    pin(inventory, node, chosen)
    words = [*command(inventory, node), *chosen.command]
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)
    except FileNotFoundError as error:
        raise UserError("There is no `ssh` on the PATH.") from error


if __name__ == "__main__":
    sys.exit(main())
