"""Create the cluster in Azure, look at it, and destroy it: `make live`.

This costs money and needs an account, the Pulumi CLI, and a selected stack. It has never been run
where this repository is tested (docs/verification.md). It asks before it spends, and whatever
happens after that, it ends with `pulumi destroy` and a look whether the group is gone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from infra import power, preflight, prices, settings
from infra.arm import Azure, asking, sign_in
from infra.errors import UserError

ON_THE_HEAD = "hostname && nproc && lscpu | grep -c -E 'avx512_bf16|amx_tile'"
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
        account = azure or sign_in()
        found = preflight.checks(account, config)
        preflight.show(found)
        if not all(check.well for check in found):
            return 1
        price = prices.of(config)
        cost = "an unknown price" if price.per_hour is None else f"about {price.per_hour:.2f} USD"
        print("This has never been run against Azure by those who wrote it: stay and watch.")
        print(f"This creates {config.node_count} VMs for {cost} an hour (list of {price.as_of}).")
        if ask("Type yes to spend it: ").strip() != "yes":
            print("Nothing was created.")
            return 1
        return _life(account, run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _life(azure: Azure, run: Run) -> int:
    group = None
    try:
        status = run(["pulumi", "up", "--yes"])
        if status == 0:
            inventory = power.inventory_of(None)
            group = inventory.resource_group
            status = run([*inventory.ssh_command.split(), ON_THE_HEAD])
    finally:
        # Also after Ctrl-C: a cluster that is forgotten is what costs most.
        destroyed = run(["pulumi", "destroy", "--yes"])
    if destroyed != 0:
        print("pulumi destroy failed: run it again, or delete the group.", file=sys.stderr)
        return 1
    if group is not None:
        with asking("looking whether the group is gone"):
            left = azure.resources().resource_groups.check_existence(group)
        if left:
            print(f"{group} still exists: az group delete --name {group}", file=sys.stderr)
            return 1
        print(f"{group} is gone.")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
