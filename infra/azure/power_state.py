"""What Azure says of VMs that do not answer: evicted, deallocated, gone (`fab status`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

from infra.azure.arm import Azure, asking, meaning
from infra.azure.power import inventory_of
from infra.errors import UserError
from infra.inventory import Inventory

GONE = "does not exist any more"
EVICTED = (
    f"{GONE}: Azure has taken this Spot VM back, with spot_eviction_policy Delete. pulumi refresh"
    " takes it out of the state, and the next pulumi up makes it anew, empty"
)
SAYS = {
    "deallocated": "is deallocated (paused, or by itself): fab resume starts it",
    "stopped": "is shut down, and its cores are still paid for: fab resume starts it",
    "running": "runs, as Azure sees it",
}
TAKEN_BACK = "is deallocated: paused, or a Spot VM that Azure has taken back. fab resume starts it"


def of_nodes(azure: Azure, inventory: Inventory) -> Mapping[str, str]:
    """What is the matter with each VM, and what to do, by name: "is deallocated ..."."""
    machines = azure.compute().virtual_machines

    def of(name: str) -> str:
        try:
            machine = machines.get(inventory.resource_group, name, expand="instanceView")
        except ResourceNotFoundError:
            spot = (inventory.config or {}).get("spot") == "true"
            return EVICTED if spot else f"{GONE}: pulumi refresh, and pulumi up makes it anew"
        except AzureError as error:
            return f"could not be looked at in Azure: {meaning(error)}"
        return _says(machine)

    with asking("asking for the VMs' state"):
        return {node.name: of(node.name) for node in inventory.nodes}


def _says(machine: Any) -> str:
    statuses = (machine.instance_view.statuses if machine.instance_view else None) or ()
    codes = [str(one.code).partition("/") for one in statuses]
    state = next((code for kind, _, code in codes if kind == "PowerState"), "in no known state")
    if state == "deallocated" and machine.priority == "Spot":
        return TAKEN_BACK
    return SAYS.get(state, f"is {state}, as Azure sees it")


def of_stack(names: Sequence[str]) -> Mapping[str, str]:
    """The same of the selected stack's nodes among `names`; nothing where Azure cannot be asked."""
    try:
        inventory = inventory_of(None)
        wanted = tuple(node for node in inventory.nodes if node.name in names)
        if not wanted:
            return {}
        azure = Azure(DefaultAzureCredential(), inventory.subscription_id)
        return of_nodes(azure, inventory.model_copy(update={"nodes": wanted}))
    except UserError:
        return {}
