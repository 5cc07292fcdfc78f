"""`fab runs`: every run on the head, and every folder in runs/ here; the one started last is last.

`fab status` says more of each, `fab fetch --run NAME` brings one here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import results, runs_on_head
from bootstrap.runs.run_names import local_folder
from bootstrap.ssh.host import Host
from bootstrap.terminal import Rows, draw, say_on


def here(cluster: str, run: dict[str, Any]) -> str:
    """What of a run's results is here, in words."""
    folder = local_folder(run["name"])
    missing = results.unfetched(cluster, run)
    if not folder.is_dir():
        return "not fetched" if missing else ""
    return f"{folder}/, without: {missing}" if missing else f"{folder}/"


def only_here(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the folders here whose run the head does not have."""
    there = {run["name"] for run in runs}
    found = local_folder("x").parent.glob("[!.]*/")
    return sorted(path.name for path in found if path.is_dir() and path.name not in there)


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Print the table."""
    del chosen
    head, console = hosts[0], Console()
    runs = runs_on_head.all_runs(head)
    table = Rows("run", f"on {head.name}", "step", "newest checkpoint", "here")
    for name in only_here(runs):
        table.add(name, "no", "", "", f"{local_folder(name)}/")
    for run in runs:
        step, start, checkpoint = run["step"], run["start"], run["checkpoint"]
        table.add(
            run["name"],
            run["state"].get("phase") or "not started",
            f"{step['step']} of {start['max_train_steps']}" if step and start else "",
            "" if checkpoint is None else str(checkpoint),
            here(inventory.name, run),
        )
    if table.row_count:
        draw(console, table)
    else:
        say_on(console, "no run yet: fab train starts one")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`fab runs`."""
    parser = command_line.parser("runs", __doc__, run=False)
    return command_line.run_command(parser.parse_args(argv), act)
