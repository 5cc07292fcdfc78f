"""`fab fetch`: copy a run's results here, into runs/NAME.

Copies what differs (learned words, checkpoints, samples, events, report); each file is checked by
SHA-256 and put in place whole, so an interrupted fetch can be repeated. `--full` copies everything,
the whole pipeline (gigabytes) included. While you are attached (fab train, fab logs), the words and
samples of each checkpoint are copied automatically. Results of another run are not overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeElapsedColumn

from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import results, runs_on_head
from bootstrap.ssh.host import Host
from bootstrap.terminal import column, say


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Fetch with a line of progress."""
    head = hosts[0]
    name = runs_on_head.the_run(head, chosen.run)["name"]
    columns = (column("fetching {task.description}"), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None)
        where = results.fetch_results(
            head, inventory.name, name, lambda count: progress.advance(task, count), chosen.full
        )
    say(f"{name}: {where}/ is up to date")
    left = results.unfetched(inventory.name, runs_on_head.the_run(head, name))
    if left:
        say(f"still on {head.name} alone: {left}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`fab fetch`."""
    parser = command_line.parser("fetch", __doc__)
    parser.add_argument(
        "--full", action="store_true", help="copy everything, the whole pipeline too"
    )
    return command_line.run_command(
        parser.parse_args(argv), act, interrupted="fetching was interrupted: fab fetch continues it"
    )
