"""What the commands about runs share: their flags, the way to the head, which run is meant."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.foreign import say
from bootstrap.host_keys import ACCEPT_FLAG, accept_all, ask_on_terminal
from bootstrap.hosts import Ask, Host, open_hosts
from bootstrap.inventory import Inventory, read_inventory
from bootstrap.names import run_name
from bootstrap.run_answers import Run

Act = Callable[[argparse.Namespace, Inventory, list[Host]], int]


def parser(name: str, text: str | None, *, run: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags that all of these commands have; `run`: it is about one run."""
    made = argparse.ArgumentParser(
        prog=f"fab {name}", description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument(
        "--inventory", default="", metavar="FILE",
        help="cluster.json, a nodefile, or local; default: what `pulumi stack output` says",
    )  # fmt: skip
    if run:
        made.add_argument("--run", default="", metavar="NAME", help="default: the last one started")
    made.add_argument(ACCEPT_FLAG, action="store_true", help="pin new host keys without asking")
    return made


def question_of(chosen: argparse.Namespace) -> Ask:
    """How the person is asked about new host keys, by the flag of `parser`."""
    return accept_all if chosen.accept_host_keys else ask_on_terminal


def run_command(
    chosen: argparse.Namespace, act: Act, *, all_nodes: bool = False, interrupted: str = ""
) -> int:
    """Connect, act, and turn what went wrong into one message.

    Args:
        all_nodes: connect to every node, not to the head alone.
        interrupted: what to say at Ctrl-C.
    """
    try:
        inventory = read_inventory(chosen.inventory)
        asked = inventory if all_nodes else dataclasses.replace(inventory, nodes=(inventory.head,))
        with open_hosts(asked, question_of(chosen)) as hosts:
            if hosts[0].unreachable is not None:
                raise hosts[0].unreachable
            return act(chosen, inventory, hosts)
    except UserError as error:
        say(f"error: {error}", error=True)
        return 1
    except KeyboardInterrupt:
        say(f"\n{interrupted or 'interrupted'}", error=True)
        return 130


def ask_head(head: Host, *words: str, on_line: Callable[[str], None] | None = None) -> str:
    """What `bootstrap.runs` says on the head.

    Raises:
        UserError: there is no environment there yet.
    """
    what, *rest = words
    command = [head.python, "-P", "-m", "bootstrap.runs", what, head.layout.root, *rest]
    finished = head.run(command, on_line=on_line, check=False)
    if finished.exit_code == 127:  # the shell's: no such program
        raise UserError(f"{head.name} has no environment yet: fab bootstrap sets it up.")
    if finished.exit_code != 0:
        raise UserError(f"{head.name}: {finished.stderr.strip()[-500:]}")
    return finished.stdout


def all_runs(head: Host) -> list[dict[str, Any]]:
    """See `run_answers.Run`; the run started last at the end.

    Raises:
        UserError: there is no environment there yet, or the answer is none.
    """
    found = answers.read(list[Run], ask_head(head, "list"), f"{head.name}: its runs")
    for run in found:
        run_name(run["name"], head.name)
    return [dict(run) for run in found]


def the_run(head: Host, name: str) -> dict[str, Any]:
    """The run that is meant: by its name, or the last one started.

    Raises:
        UserError: there is no such run.
    """
    found = all_runs(head)
    if not found:
        raise UserError(f"{head.name} has no run yet: fab train starts one.")
    if not name:
        return found[-1]
    for run in found:
        if run["name"] == name:
            return run
    raise UserError(f"there is no run {name} on {head.name}; there is: "
                    f"{', '.join(run['name'] for run in found)}.")  # fmt: skip


def main_of(
    name: str, text: str | None, act: Act, **how: Any
) -> Callable[[Sequence[str] | None], int]:
    """A `main` for a command without flags of its own."""

    def main(argv: Sequence[str] | None = None) -> int:
        return run_command(parser(name, text).parse_args(argv), act, **how)

    return main
