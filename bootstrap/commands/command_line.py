"""What the commands about runs share: their flags, the way to the head, which run is meant."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.last_inventory import inventory_or_last
from bootstrap.ssh.host import Ask, Host
from bootstrap.ssh.host_keys import ACCEPT_FLAG, accept_all, ask_on_terminal
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.terminal import exit_status

Act = Callable[[argparse.Namespace, Inventory, list[Host]], int]
InAzure = Callable[[Sequence[str]], Mapping[str, str]]
"""Told the names of VMs, says what the matter is with each that Azure knows."""


def parser(name: str, text: str | None, *, run: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags that all of these commands have; `run`: it is about one run."""
    made = argparse.ArgumentParser(
        prog=f"fab {name}", description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument(
        "--inventory", default="", metavar="FILE",
        help="cluster.json, a nodefile, or local; default: what fab bootstrap was given last, else "
        "what `pulumi stack output` says",
    )  # fmt: skip
    if run:
        made.add_argument(
            "--run",
            default="",
            metavar="NAME",
            help="name of the run (default: the last one started)",
        )
    made.add_argument(ACCEPT_FLAG, action="store_true", help="pin new host keys without asking")
    return made


def question_of(chosen: argparse.Namespace) -> Ask:
    """How the person is asked about new host keys, by the flag of `parser`."""
    return accept_all if chosen.accept_host_keys else ask_on_terminal


def typed(task: str, where: str) -> str:
    """`fab TASK` for the cluster of this --inventory, as it can be pasted into this terminal."""
    program = Path(sys.argv[0])
    on_path = shutil.which("fab")
    fab = "fab"
    if program.name == fab and not (on_path and program.exists() and program.samefile(on_path)):
        fab = shlex.quote(str(program))
    return f"{fab} {task}" + (f" --inventory {shlex.quote(where)}" if where else "")


def run_command(
    chosen: argparse.Namespace,
    act: Act,
    *,
    all_nodes: bool = False,
    interrupted: str = "interrupted",
    in_azure: InAzure | None = None,
) -> int:
    """Connect, act, and turn what went wrong into one message.

    Args:
        in_azure: asked about a head that does not answer.
        all_nodes: connect to every node, not to the head alone.
        interrupted: what to say at Ctrl-C.
    """

    @exit_status(interrupted=f"\n{interrupted}")
    def connected() -> int:
        inventory = inventory_or_last(chosen.inventory)
        asked = inventory if all_nodes else dataclasses.replace(inventory, nodes=(inventory.head,))
        with open_hosts(asked, question_of(chosen)) as hosts:
            silent = hosts[0].unreachable
            if silent is not None and in_azure is not None:
                for name, says in in_azure([hosts[0].name]).items():
                    raise UserError(f"{silent}\n{name} {says}.") from silent
            if silent is not None:
                raise silent
            return act(chosen, inventory, hosts)

    return connected()
