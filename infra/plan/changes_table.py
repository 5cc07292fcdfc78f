"""What `pulumi up` would do to a cluster that exists, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from infra.plan.difference import Step

WORDS = {
    "create": "created",
    "delete": "deleted",
    "kept": "unchanged",
    "update": "changed in place",
    "restart": "changed in place, with a restart",
    "replace": "replaced",
    "refused": "REFUSED",
}


def show(
    steps: Sequence[Step], warnings: Sequence[str], exact: bool, console: Console | None = None
) -> None:
    """Print the steps for a person."""
    out = console or Console(width=120, highlight=False, markup=False)
    table = Table("resource", "", "what differs", title="What pulumi up would change")
    for step in steps:
        table.add_row(step.name, WORDS[step.action], ", ".join(step.paths))
    out.print(table if steps else "pulumi up would change nothing.")
    if not exact:
        out.print(
            "Compared with the config of the last pulumi up; for a comparison with the real"
            " resources, use the file that pulumi stack export writes."
        )
    for text in warnings:
        out.print(f"warning: {text}")
    for step in steps:
        if step.action == "refused":
            out.print(f"REFUSED: {step.says}")
