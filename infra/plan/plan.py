"""What `pulumi up` would ask Azure for, without an account: `python -m infra.plan --help`.

The real program runs; only Pulumi's engine and Azure are stood in for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra import prices
from infra.config import settings
from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.plan import (
    changes_table,
    difference,
    living,
    matrix,
    picture,
    plan_table,
    stack_file,
)
from infra.plan.recording import record
from infra.rules import rules

EXAMPLE_RANGE = "203.0.113.7/32"
"""RFC 5737: an address for documentation."""
EXAMPLE_KEY = Path(__file__).with_name("example_key.pub")


def stand_ins(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The config with examples in the place of what only a person can give, and the notes on it."""
    complete, notes = dict(values), []
    if "allowed_ssh_cidr" not in complete:
        complete["allowed_ssh_cidr"] = EXAMPLE_RANGE
        notes.append(
            f"allowed_ssh_cidr is not set: {EXAMPLE_RANGE} is used in place of your address"
        )
    default = ClusterConfig.model_fields["ssh_public_key_path"].default
    given = {"ssh_public_key", "ssh_public_key_path"} & set(complete)
    if not given and not Path(default).expanduser().exists():
        complete["ssh_public_key_path"] = str(EXAMPLE_KEY)
        notes.append(
            f"{default} is missing: an example key is used, whose private key no longer exists"
        )
    return complete, notes


def make(
    values: Mapping[str, str],
    stack: str = "dev",
    preview: bool = False,
    living: Mapping[str, Mapping[str, Any]] | None = None,
    vm_now: float | None = None,
) -> rules.PlanData:
    """The plan for a stack's config.

    Args:
        values: the config by key.
        stack: the stack's name.
        preview: know nothing that only Azure can know.
        living: the resources that exist (`infra.plan.recording.record`).
        vm_now: what one VM costs per hour now (`infra.prices.live`); None: the table's price.

    Returns:
        `resources` sorted so that whatever one depends on comes before it, `outputs`, `price`
        (USD), `warnings` and `violations` (of `rules`; none unless the program is broken).

    Raises:
        UserError: the config is refused, with every reason.
    """
    config = settings.validate(values, "the config")
    recorded = record(values, stack, preview, living)
    price = prices.of(config, vm_now)
    plan: dict[str, Any] = {
        "resources": _in_order(recorded["requests"]),
        "outputs": dict(sorted(recorded["outputs"].items())),
        "price": price.as_json(),
    }
    plan["warnings"] = warnings(config, price)
    plan["violations"] = rules.violations(plan, config.allow_ssh_from_anywhere)
    return plan


def warnings(config: ClusterConfig, price: prices.Price) -> list[str]:
    """What is allowed and still deserves a thought before it is paid for."""
    found = [
        f"SSH to the head is open to {one.num_addresses} addresses ({one})"
        for one in config.allowed_ssh_cidr
        if one.prefixlen < 24
    ]
    if config.size.series.endswith("v5"):
        found.append(
            "hosts of v5 sizes have different CPUs (Ice Lake, Sapphire Rapids, Emerald Rapids):"
            " only some have AMX and bf16"
        )
    if config.spot:
        found.append(
            "Azure can evict spot VMs at any time; the price shown is that of pay-as-you-go VMs"
        )
    if price.per_hour is None:
        unknown = [line.what for line in price.lines if line.each_per_hour is None]
        found.append(f"infra/prices.json has no price of {' and '.join(unknown)}")
    if config.idle_minutes:
        found.append(
            f"every VM is deallocated when nothing has run for {config.idle_minutes} minutes;"
            " fab status warns"
        )
    if config.deallocate_at:
        found.append(
            f"every VM is deallocated at {config.deallocate_at} UTC, even during a training"
        )
    if config.monthly_budget and config.existing_resource_group:
        found.append(f"the budget counts all that {config.existing_resource_group} holds")
    if config.replace_nodes:
        found.append(
            "replace_nodes is on: a change that Azure cannot make to a VM deletes it and its disk"
        )
    return found


def _in_order(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same order at each run: dependencies first, then by type and name."""
    waiting = sorted((dict(request) for request in requests), key=lambda one: one["name"])
    known = {request["name"] for request in waiting}
    done: set[str] = set()
    ordered = []
    while waiting:
        ready = next(one for one in waiting if {*one["depends_on"], one["parent"]} & known <= done)
        waiting.remove(ready)
        done.add(ready["name"])
        ordered.append(ready)
    return ordered


def main(argv: Sequence[str] | None = None) -> int:
    """Print a plan; 1 where it breaks a rule or is refused, 2 where the config is bad."""
    parser = argparse.ArgumentParser(prog="python -m infra.plan", description=__doc__)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of Pulumi.yaml"
    )
    parser.add_argument(
        "--stack",
        default="dev",
        help="name of the stack (default: dev); its config is read from Pulumi.STACK.yaml, if any",
    )
    parser.add_argument("--json", action="store_true", help="the whole plan as JSON")
    parser.add_argument(
        "--live", action="store_true", help="ask Azure's price service what the VMs cost today"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="show what would change in a cluster: the file of pulumi stack export, or (less exact)"
        " of pulumi stack output --json",
    )
    parser.add_argument(
        "--matrix", action="store_true", help="a table of what a change of each key does"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the cluster into a file")
    chosen = parser.parse_args(argv)
    if chosen.matrix:
        print(matrix.markdown(), end="")
        return 0
    try:
        cluster = living.read(chosen.against, chosen.stack) if chosen.against else None
        kept = stack_file.path_of(chosen.stack, Path.cwd())
        config_of_stack = stack_file.read(kept) if kept.exists() else {}
        last = cluster.values if cluster else {}
        values, notes = stand_ins({**(config_of_stack or last), **read_assignments(chosen.set)})
        if config_of_stack:
            notes.insert(0, f"the config is read from {kept.name}")
        config = settings.validate(values)
        vm_now = prices.live(config) if chosen.live else None
        if chosen.live and vm_now is None:
            notes.append("Azure's price service did not answer: the VMs' price is the table's")
        existing = cluster.resources if cluster else None
        plan = make(values, chosen.stack, living=existing, vm_now=vm_now)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plan["warnings"] = [*notes, *plan["warnings"]]
    steps = difference.between(cluster.resources, plan) if cluster else []
    if cluster:
        plan["changes"] = [asdict(step) for step in steps]
        plan["warnings"] += difference.warnings(steps)
    others = config.existing_subnet_id or config.existing_resource_group
    if chosen.svg and (others or not config.public_address):
        print("error: --svg draws a cluster with a group, network and address.", file=sys.stderr)
        return 2
    if chosen.svg:
        chosen.svg.write_text(picture.draw(plan), encoding="utf-8")
    elif chosen.json:
        print(json.dumps(plan, indent=2))
    elif cluster:
        changes_table.show(steps, plan["warnings"], cluster.exact)
    else:
        plan_table.show(plan)
    refused = any(step.action == "refused" for step in steps)
    return 1 if plan["violations"] or refused else 0


def read_assignments(texts: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words as a mapping; the last one wins.

    Raises:
        UserError: names the words that are not KEY=VALUE.
    """
    wrong = [text for text in texts if not text.partition("=")[0] or "=" not in text]
    if wrong:
        raise UserError(f"--set wants KEY=VALUE, not {', '.join(map(repr, wrong))}.")
    pairs = (text.partition("=") for text in texts)
    return {key.strip(): value for key, _, value in pairs}
