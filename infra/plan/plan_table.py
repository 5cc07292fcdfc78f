"""A plan as tables: what is created, who has which address, what it costs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from infra.prices import HOURS_PER_MONTH
from infra.rules.kinds import NAME_KEYS


def show(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print a plan for a person."""
    out = console or Console(width=100, highlight=False, markup=False)
    created = Table("resource", "name in Azure", "depends on", title="What pulumi up would create")
    for resource in plan["resources"]:
        if not resource["custom"]:
            continue
        kind = resource["type"]
        created.add_row(
            kind.rpartition(":")[2],
            str(resource["inputs"][NAME_KEYS[kind]]),
            ", ".join(name for name in resource["depends_on"] if name != "resource-group"),
        )
    out.print(created)
    addresses = Table("node", "private", "public", "vCPUs", "size", title="Addresses")
    for node in plan["outputs"]["nodes"]:
        public = "assigned by Azure" if node.get("public_ip") else "-"
        addresses.add_row(
            node["name"], node["private_ip"], public, str(node["vcpus"]), node["size"]
        )
    out.print(addresses)
    out.print(_prices(plan["price"]))
    out.print("List prices in USD, pay-as-you-go, Linux, without tax. Sources:")
    sources = {line["source"]: line["as_of"] for line in plan["price"]["lines"]}
    for address, day in sources.items():
        out.print(f"  {day}  {address}", soft_wrap=True)
    for text in plan["warnings"]:
        out.print(f"warning: {text}")
    for text in plan["violations"]:
        out.print(f"BROKEN RULE: {text}")


def _prices(price: dict[str, Any]) -> Table:
    table = Table(
        *("what", "count", "per hour", "per month", "per hour, paused", "price of"),
        title="Price in USD",
    )
    for line in price["lines"]:
        each = line["each_per_hour"]
        total = None if each is None else each * line["count"]
        paused = total if line["while_paused"] else 0.0
        table.add_row(line["what"], str(line["count"]), *_two(total), _hour(paused), line["as_of"])
    table.add_section()
    table.add_row("total", "", *_two(price["per_hour"]), _hour(price["paused_per_hour"]))
    return table


def _two(per_hour: float | None) -> tuple[str, str]:
    month = "unknown" if per_hour is None else f"{per_hour * HOURS_PER_MONTH:,.2f}"
    return _hour(per_hour), month


def _hour(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
