"""`--then-pause`: the command that deallocates the VMs after a job, tried out beforehand."""

from __future__ import annotations

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.node.azure_deallocate import SECONDS
from bootstrap.ssh.host import Host


def command(head: Host, inventory: Inventory) -> tuple[str, ...]:
    """The command for the end of a job, tried out before anything is started.

    Raises:
        UserError: these are not machines in Azure, or the head may not deallocate them.
    """
    if inventory.resource_group is None:
        raise UserError("--then-pause is for VMs in Azure: this inventory names no resource group.")
    module = [head.python, "-P", "-m", "bootstrap.node.azure_deallocate"]
    workers_first = [node.name for node in (*inventory.workers, inventory.head)]
    finished = head.run([*module, "--check", *workers_first], timeout=2 * SECONDS, check=False)
    if finished.exit_code != 0:
        said = (finished.stderr or finished.stdout).strip().removeprefix("error: ")
        raise UserError(
            f"--then-pause: {head.name} cannot deallocate the VMs: {said}\n"
            "It needs a managed identity that may (docs/running.md): pulumi config set "
            "head_may_deallocate true, then pulumi up. Or leave --then-pause out, and run fab "
            "pause when the run has ended."
        )
    return (*module, *workers_first)
