"""`fab train --then-pause`: the head deallocates the VMs when the run has ended, its own last.

    python -m bootstrap.deallocate [--check] VM...

Shutting down from inside would not stop the bill; Azure's resource manager does, asked with the
managed identity of the VM that this runs on. That identity needs the role "Virtual Machine
Contributor" on the resource group; `--check` says beforehand whether it can see the VMs.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bootstrap.errors import UserError

if TYPE_CHECKING:
    from bootstrap.hosts import Host
    from bootstrap.inventory import Inventory

METADATA = "http://169.254.169.254/metadata"
ARM = "https://management.azure.com"
VERSION = "2024-07-01"
SECONDS = 60


def command(head: Host, inventory: Inventory) -> tuple[str, ...]:
    """The command for the end of a job, tried out before anything is started.

    Raises:
        UserError: these are not machines in Azure, or the head may not deallocate them.
    """
    if inventory.resource_group is None:
        raise UserError("--then-pause is for VMs in Azure: this inventory names no resource group.")
    module = [head.python, "-P", "-m", "bootstrap.deallocate"]
    workers_first = [node.name for node in (*inventory.workers, inventory.head)]
    finished = head.run([*module, "--check", *workers_first], timeout=2 * SECONDS, check=False)
    if finished.exit_code != 0:
        said = (finished.stderr or finished.stdout).strip().removeprefix("error: ")
        raise UserError(
            f"--then-pause: {head.name} cannot deallocate the VMs: {said}\n"
            "Leave it out, and run fab pause when the run has ended."
        )
    return (*module, *workers_first)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> Any:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", "replace")[:300]
        raise UserError(f"{url.partition('?')[0]} answered {error.code}: {said}") from error
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"{url.partition('?')[0]} does not answer ({error}).") from error
    return json.loads(text) if text else None


def deallocate(vms: Sequence[str], check: bool) -> None:
    """Ask Azure to deallocate `vms`, in order; with `check`, only whether it would be allowed to.

    Raises:
        UserError: Azure refused, or this is no VM of Azure's.
    """
    metadata = os.environ.get("XEON_DIFFUSION_METADATA", METADATA)
    arm = os.environ.get("XEON_DIFFUSION_ARM", ARM)
    mine = {"Metadata": "true"}
    about = _ask(f"{metadata}/instance/compute?api-version=2021-02-01", mine)
    token = _ask(f"{metadata}/identity/oauth2/token?api-version=2018-02-01&resource={ARM}/", mine)[
        "access_token"
    ]
    group = f"/subscriptions/{about['subscriptionId']}/resourceGroups/{about['resourceGroupName']}"
    for vm in vms:
        url = f"{arm}{group}/providers/Microsoft.Compute/virtualMachines/{vm}"
        verb, method = ("", "GET") if check else ("/deallocate", "POST")
        _ask(f"{url}{verb}?api-version={VERSION}", {"Authorization": f"Bearer {token}"}, method)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    words = list(sys.argv[1:] if argv is None else argv)
    check = "--check" in words
    try:
        deallocate([word for word in words if word != "--check"], check)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
