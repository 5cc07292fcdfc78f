"""`fab destroy`: ask before anything is lost that has not been fetched, then `pulumi destroy`.

`pulumi destroy` itself asks once more, with its own list of what goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.read_inventory import read_inventory
from bootstrap.node import run_state
from bootstrap.paths import CHECKOUT
from bootstrap.runs import results, runs_on_head
from bootstrap.ssh.host_keys import ACCEPT_FLAG, accept_all, ask_on_terminal, forget_all
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.terminal import exit_status, say


def losses(inventory: Inventory, accept_host_keys: bool, keeps_results: bool = False) -> list[str]:
    """What would be lost, a line each; a head that cannot be asked is one of them.

    Args:
        keeps_results: they lie on a disk that stays.
    """
    try:
        with open_hosts(inventory, accept_all if accept_host_keys else ask_on_terminal) as hosts:
            head = hosts[0]
            if head.unreachable is not None:
                raise head.unreachable
            there = head.exists(head.layout.runs, "d")
            runs = runs_on_head.all_runs(head) if there else []
    except UserError as error:
        first = str(error).splitlines()[0]
        return [f"{inventory.head.name} cannot be asked what it holds: {first}"]
    lines = []
    for run in runs:
        state = run["state"]
        if run_state.is_live(state):
            name = f"{run['name']} is {state['phase']}"
            lines.append(f"{name}: it would be cut (fab stop ends it cleanly)")
        left = results.unfetched(inventory.name, run)
        if left and not keeps_results:
            lines.append(f"{run['name']}: not fetched: {left}")
    return lines


def _agreed(lines: Sequence[str]) -> bool:
    say("\n".join(["This would be lost:", *(f"  - {line}" for line in lines)]))
    say("fab fetch --full copies the results here.")
    if not sys.stdin.isatty():
        raise UserError(
            "There is no terminal to ask in. Pass --yes to destroy it all the same. Nothing was"
            " destroyed."
        )
    return input("Destroy it all the same? [yes/no] ").strip().lower() == "yes"


def destroy(inventory: Inventory, chosen: argparse.Namespace) -> int:
    """Ask where something would be lost, then call Pulumi.

    Raises:
        UserError: this is not a stack of Pulumi's, or there is nobody to ask.
    """
    if inventory.kind != "stack":
        raise UserError("fab destroy is for the selected Pulumi stack. These machines are not "
                        "its own: fab clean removes what was put on them.")  # fmt: skip
    head_only = dataclasses.replace(inventory, nodes=(inventory.head,))
    keeps_results = chosen.keep_data and inventory.data_folder is not None
    lost = losses(head_only, chosen.accept_host_keys, keeps_results)
    if lost and not chosen.yes and not _agreed(lost):
        say("Nothing was destroyed.")
        return 1
    if inventory.data_folder is not None and not chosen.keep_data:
        say(
            "The data disk is protected, and Pulumi deletes nothing before that is changed:"
            " --keep-data keeps it and deletes the rest; pulumi state unprotect, with its URN,"
            " gives it up."
        )
    words = ["pulumi", "destroy"]
    words += ["--exclude-protected"] if chosen.keep_data else []
    words += ["--yes"] if chosen.yes else []
    say(f"$ {' '.join(words)}")
    try:
        code = subprocess.run(words, cwd=CHECKOUT, check=False).returncode
    except FileNotFoundError as error:
        raise UserError("There is no `pulumi` on the PATH. Nothing was destroyed.") from error
    if code == 0:  # The next machines of that name are others, with keys of their own.
        for file in forget_all(inventory.name):
            say(f"The machines' host keys are forgotten; {file}.old still has them.")
    return code


@exit_status(interrupted="\ninterrupted; nothing was asked of Pulumi")
def main(argv: Sequence[str] | None = None) -> int:
    """`fab destroy`."""
    parser = argparse.ArgumentParser(
        prog="fab destroy", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--yes", action="store_true", help="do not ask for confirmation, here and in Pulumi"
    )
    parser.add_argument(
        "--keep-data", action="store_true", help="keep the data disk and its resource group"
    )
    parser.add_argument(ACCEPT_FLAG, action="store_true", help="pin new host keys without asking")
    chosen = parser.parse_args(argv)
    return destroy(read_inventory(), chosen)
