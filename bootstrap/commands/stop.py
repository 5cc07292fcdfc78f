"""`fab stop`: end a run cleanly, with a checkpoint to go on from.

Every rank ends after the step that it is in. `fab train --resume` goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from bootstrap import answers
from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import attach, runs_on_head
from bootstrap.ssh.host import Host
from bootstrap.terminal import say


def stop(head: Host, name: str) -> bool:
    """Ask a run to end; False: it is not running."""
    return answers.read(bool, runs_on_head.ask_head(head, "stop", name), f"{head.name}: fab stop")


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Ask, and wait until it has ended."""
    head = hosts[0]
    name = runs_on_head.the_run(head, chosen.run)["name"]
    if not stop(head, name):
        say(f"{name} is not running. fab status says how it ended.")
        return 0
    if chosen.no_wait:
        say(f"{name} ends after the step that it is in.")
        return 0
    return attach.attach(head, inventory.name, name, Console(stderr=True))


def main(argv: Sequence[str] | None = None) -> int:
    """`fab stop`."""
    parser = command_line.parser("stop", __doc__)
    parser.add_argument("--no-wait", action="store_true", help="return once it has been asked")
    return command_line.run_command(
        parser.parse_args(argv), act, interrupted="it has been asked to end; fab status says when"
    )
