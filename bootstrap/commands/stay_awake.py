"""Keep the VMs on for some hours, although nothing runs: for stacks with `idle_minutes`.

`fab status` says when they would be deallocated. `fab pause` does it at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import idle
from bootstrap.ssh.host import Host
from bootstrap.terminal import say

HOURS = 8.0
MOST_HOURS = 24 * 7.0


def hours(text: str) -> float:
    """A number of hours, at most a week."""
    number = float(text)
    if not 0 <= number <= MOST_HOURS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MOST_HOURS:g}")
    return number


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Tell the head."""
    del inventory
    head = hosts[0]
    if not idle.told(head)["minutes"]:
        say(f"{head.name} does not watch whether anything runs: the VMs stay on until fab pause.")
        return 0
    minutes = idle.stay_awake(head, chosen.hours)["minutes"]
    say(
        f"The VMs stay on for {chosen.hours:g} h. After that, they are deallocated when nothing has"
        f" run for {minutes} min."
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`fab stay-awake`."""
    parser = command_line.parser("stay-awake", __doc__, run=False)
    parser.add_argument(
        "--hours", type=hours, default=HOURS, help="from now; 0: no longer (default: %(default)g)"
    )
    return command_line.run_command(parser.parse_args(argv), act)
