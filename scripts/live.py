"""Create the cluster in Azure, train two steps on it, and destroy it: `make live`.

This costs money and needs an account, the Pulumi CLI, and a selected stack. It has never been run
where this repository is tested (docs/verification.md). It asks before it spends, and whatever
happens after that, it ends with `pulumi destroy` and a look whether the group is gone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from infra import prices
from infra.azure import preflight
from infra.azure.arm import Azure, asking, pulumi_json
from infra.config import settings
from infra.errors import UserError
from infra.plan.recording import PROJECT
from infra.program.names import Names

FAB = str(Path(sys.executable).parent / "fab")
LIFE = (
    ("pulumi", "up", "--yes"),
    (FAB, "bootstrap"),
    (FAB, "check"),
    (FAB, "train", "--max-train-steps", "2"),
    (FAB, "fetch"),
)
"""What a person types, in order; the first that fails is the last."""
Run = Callable[[Sequence[str]], int]


def run(command: Sequence[str]) -> int:
    """Run a program in this terminal; returns its exit status."""
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode


def main(ask: Callable[[str], str] = input, run: Run = run, azure: Azure | None = None) -> int:
    """Go through a cluster's life; 0 where every step worked and nothing is left in Azure."""
    try:
        values = preflight.stack_values()
        config = settings.validate(values)
        if config.data_disk_size_gb:
            raise UserError("make live destroys all that it makes: set data_disk_size_gb to 0.")
        if config.existing_resource_group:
            raise UserError("make live looks whether its own group is gone: existing_resource_group"
                            " must be empty.")  # fmt: skip
        cluster = preflight.stack_cluster()
        account = azure or preflight.account(cluster, selected=True)
        found = preflight.checks(account, config, cluster)
        preflight.show(found)
        if not all(check.well for check in found):
            return 1
        price = prices.of(config)
        cost = "an unknown price" if price.per_hour is None else f"about {price.per_hour:.2f} USD"
        print("This has never been run against Azure by those who wrote it: stay and watch.")
        print(f"This creates {config.node_count} VMs for {cost} per hour (list of {price.as_of}).")
        if ask("Type yes to spend it: ").strip() != "yes":
            print("Nothing was created.")
            return 1
        return _life(account, run, Names.chosen(config.name, PROJECT, selected_stack()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _life(azure: Azure, run: Run, names: Names) -> int:
    group = names.resource_group()
    worked = False
    try:
        worked = all(run(words) == 0 for words in LIFE)
    finally:
        # Also after Ctrl-C: a cluster that is forgotten is what costs most.
        destroyed = run(("pulumi", "destroy", "--yes")) == 0
    if not destroyed:
        print("pulumi destroy failed: run it again, or delete the group.", file=sys.stderr)
    # Looked at also where `pulumi up` failed: it may have stopped half-way.
    with asking("looking whether the group is gone"):
        left = azure.resources().resource_groups.check_existence(group)
    if left:
        print(f"{group} still exists: az group delete --name {group}", file=sys.stderr)
        return 1
    print(f"{group} is gone.")
    return 0 if worked and destroyed else 1


def selected_stack() -> str:
    """The name of the stack that `pulumi up` would take; UserError where none is selected."""
    current = [one["name"] for one in pulumi_json("stack", "ls") if one.get("current")]
    if not current:
        raise UserError("No stack is selected: pulumi stack select, or pulumi stack init dev.")
    return str(current[0]).rsplit("/", 1)[-1]


if __name__ == "__main__":
    sys.exit(main())
