"""`fab logs`: attach to a run: its progress bar, its events, and results as they appear.

The training does not notice whether anybody is attached. Ctrl-C detaches; `fab stop` ends the
run. `--all` prints what the ranks print (supervisor.log) in place of the bar.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.node import run_state
from bootstrap.runs import attach, runs_on_head
from bootstrap.ssh.host import Host
from bootstrap.terminal import say


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Attach, or print the whole log."""
    head = hosts[0]
    name = runs_on_head.the_run(head, chosen.run)["name"]
    if chosen.all:
        log = f"{head.layout.run(name)}/{run_state.LOG}"
        head.read_lines(log, say)
        return 0
    return attach.attach(head, inventory.name, name, Console(stderr=True))


def main(argv: Sequence[str] | None = None) -> int:
    """`fab logs`."""
    parser = command_line.parser("logs", __doc__)
    parser.add_argument("--all", action="store_true", help="print everything that ranks printed")
    return command_line.run_command(parser.parse_args(argv), act, interrupted=attach.GOES_ON)
