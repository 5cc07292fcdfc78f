"""`fab pause` and `fab resume`: deallocate the VMs, which stops the bill for cores, and start them.

Shutting down inside a VM does not stop its bill; deallocating through ARM does. Disks, addresses
and the NAT gateway stay, and are paid for.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from azure.identity import DefaultAzureCredential

from infra.azure.arm import ROOM_FIX, ROOM_FOR_EXISTING, Azure, asking, pulumi_json
from infra.errors import UserError
from infra.inventory import Inventory, read

SSH_PORT = 22
START_SECONDS = 900.0
POLL_SECONDS = 5.0
CONNECT_SECONDS = 3.0
Say = Callable[[str], None]


def pause(azure: Azure, inventory: Inventory, say: Say = print, poll: float = POLL_SECONDS) -> None:
    """Deallocate every VM and wait until they are.

    Args:
        azure: the subscription.
        inventory: whose VMs.
        say: told what happens, line by line.
        poll: seconds between two questions to Azure.

    Raises:
        UserError: Azure refused or did not answer; the VMs that did not stop are named.
    """
    _each(azure, inventory, "deallocate", say, poll)
    say(
        f"{len(inventory.nodes)} VMs are deallocated: their cores cost nothing now. Disks,"
        " addresses and the NAT gateway are still billed. fab resume starts them again."
    )


def resume(
    azure: Azure,
    inventory: Inventory,
    say: Say = print,
    poll: float = POLL_SECONDS,
    seconds: float = START_SECONDS,
    port: int = SSH_PORT,
) -> None:
    """Start every VM and wait until they answer: each VM's agent, and the head's SSH.

    Args:
        azure: the subscription.
        inventory: whose VMs.
        say: told what happens, line by line.
        poll: seconds between two questions.
        seconds: how long they may take to answer once Azure has started them.
        port: the head's SSH port.

    Raises:
        UserError: Azure refused, or a VM does not answer in time; they are named.
    """
    _each(azure, inventory, "start", say, poll)
    machines = azure.compute().virtual_machines
    end = time.monotonic() + seconds
    silent = [node.name for node in inventory.nodes]
    while silent:
        with asking("asking whether the VMs are up"):
            silent = [
                name
                for name in silent
                if not _agent_ready(machines.instance_view(inventory.resource_group, name))
            ]
        if silent and time.monotonic() > end:
            raise UserError(
                f"{', '.join(silent)} started but does not answer after {seconds:.0f} s. See its"
                " boot diagnostics in the portal; fab pause stops the bill."
            )
        if silent:
            time.sleep(poll)
    while not _listens(str(inventory.gateway), port):
        if time.monotonic() > end:
            raise UserError(
                f"The VMs are up, but SSH at {inventory.gateway} does not answer: has your own"
                " address changed? Then: pulumi config set allowed_ssh_cidr X, and pulumi up."
            )
        time.sleep(poll)
    say(f"{len(inventory.nodes)} VMs are up: {inventory.ssh_command}")


def _each(azure: Azure, inventory: Inventory, verb: str, say: Say, poll: float) -> None:
    """Do one thing to all VMs at once; those that fail are named together."""
    machines = azure.compute().virtual_machines
    begin = getattr(machines, f"begin_{verb}")
    failed: list[str] = []
    pollers: dict[str, Any] = {}

    def attempt(name: str, act: Callable[[], Any]) -> Any:
        try:
            with asking(name):
                return act()
        except UserError as error:
            failed.append(str(error))
        return None

    for node in inventory.nodes:
        name = node.name
        say(f"{name}: {verb}")
        asked = partial(begin, inventory.resource_group, name, polling_interval=poll)
        started = attempt(name, asked)
        if started is not None:
            pollers[name] = started
    for name, poller in pollers.items():
        attempt(name, poller.result)
    if failed:
        first, *others = failed
        # The fix once, for all of them.
        told = [first, *(text.removesuffix(ROOM_FIX).rstrip() for text in others)]
        no_room = any(ROOM_FIX in text for text in failed)
        raise UserError(
            f"{len(failed)} of {len(inventory.nodes)} VMs did not {verb}:\n"
            + "\n".join(f"  {text}" for text in told)
            + (f"\n{ROOM_FOR_EXISTING}." if no_room else "")
        )


def _agent_ready(view: Any) -> bool:
    statuses = (view.vm_agent.statuses if view.vm_agent else None) or ()
    return any(status.code == "ProvisioningState/succeeded" for status in statuses)


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def inventory_of(path: Path | None) -> Inventory:
    """The inventory in a file, or that of the selected stack."""
    if path is not None:
        return read(path)
    outputs = pulumi_json("stack", "output")
    if not outputs.get("nodes"):
        raise UserError("The selected stack has no cluster. Make one with: pulumi up")
    return Inventory.model_validate(outputs)


def main(argv: Sequence[str] | None = None, azure: Azure | None = None) -> int:
    """`python -m infra.azure.power pause|resume [--inventory FILE]`; 2 on any error."""
    parser = argparse.ArgumentParser(prog="python -m infra.azure.power", description=__doc__)
    parser.add_argument("action", choices=("pause", "resume"))
    parser.add_argument("--inventory", type=Path, help="instead of the selected stack's outputs")
    chosen = parser.parse_args(argv)
    act = pause if chosen.action == "pause" else resume
    try:
        inventory = inventory_of(chosen.inventory)
        # The stack says which subscription it lives in, whatever the sign-in's default is.
        act(azure or Azure(DefaultAzureCredential(), inventory.subscription_id), inventory)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
