"""The head's right to deallocate the cluster's VMs, for `fab train --then-pause`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pulumi
from pulumi_azure_native import authorization, compute

from infra.program.place import Place
from infra.rules.kinds import POWER_ROLE, ROLE


class PowerRole(pulumi.ComponentResource):
    """An assignment of that role to the head's own identity, on the cluster's resource group."""

    def __init__(
        self,
        head: compute.VirtualMachine,
        group_id: pulumi.Output[str],
        place: Place,
    ) -> None:
        super().__init__(
            "xeon-diffusion:infra:PowerRole", place.logical("power"), None, place.inside
        )
        principal = head.identity.apply(lambda identity: identity.principal_id if identity else "")
        definition = group_id.apply(definition_id)
        authorization.RoleAssignment(
            place.logical("power-role"),
            # Azure wants it unique in the tenant; a new head, with its new identity, gets another.
            role_assignment_name=pulumi.Output.all(group_id, principal).apply(_name),
            scope=group_id,
            role_definition_id=definition,
            principal_id=principal,
            # Without it Azure looks a brand-new identity up, and often does not find it yet.
            principal_type="ServicePrincipal",
            opts=place.settled.options(ROLE, self, depends_on=[head]),
        )
        self.register_outputs({})


def definition_id(group_id: str) -> str:
    """The role's address in ARM, in the subscription that the resource group is in."""
    subscription = group_id.split("/")[2]
    definitions = "providers/Microsoft.Authorization/roleDefinitions"
    return f"/subscriptions/{subscription}/{definitions}/{POWER_ROLE}"


def _name(parts: Sequence[str]) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "|".join([*parts, POWER_ROLE])))
