"""The command by which the head deallocates the VMs, tried out beforehand."""

from __future__ import annotations

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.node.azure.deallocate import SECONDS
from bootstrap.ssh.host import Host


def command(head: Host, inventory: Inventory, asked_by: str = "--then-pause") -> tuple[str, ...]:
    """The command, whose last words are the VMs' names, the head's at the end.

    Args:
        asked_by: the flag or key that wants it, for messages.

    Raises:
        UserError: these are not machines in Azure, or the head may not deallocate them.
    """
    if inventory.resource_group is None:
        raise UserError(f"{asked_by} is for VMs in Azure: this inventory names no resource group.")
    module = [head.python, "-P", "-m", "bootstrap.node.azure.deallocate"]
    workers_first = [node.name for node in (*inventory.workers, inventory.head)]
    finished = head.run([*module, "--check", *workers_first], timeout=2 * SECONDS, check=False)
    if finished.exit_code != 0:
        said = (finished.stderr or finished.stdout).strip().removeprefix("error: ")
        raise UserError(
            f"{asked_by}: {head.name} cannot deallocate the VMs: {said}\n"
            "It needs a managed identity that may (docs/running.md): pulumi config set "
            f"head_may_deallocate true, then pulumi up. Or leave {asked_by} out, and run fab "
            "pause when the run has ended."
        )
    return (*module, *workers_first)
