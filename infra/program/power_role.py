"""The head's right to switch the cluster's VMs, for `--then-pause` and `idle_minutes`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pulumi
from pulumi_azure_native import authorization, compute

from infra.config.config import ClusterConfig
from infra.program.place import Place
from infra.rules.kinds import POWER_ROLE, ROLE


class PowerRole(pulumi.ComponentResource):
    """Assignments of that role to the head's own identity.

    One on the cluster's own resource group; in a group that holds other things too, one on each VM.
    """

    def __init__(
        self,
        machines: Sequence[compute.VirtualMachine],
        group_id: pulumi.Output[str],
        config: ClusterConfig,
        place: Place,
    ) -> None:
        super().__init__(
            "xeon-diffusion:infra:PowerRole", place.logical("power"), None, place.inside
        )
        head = machines[0]
        principal = head.identity.apply(lambda identity: identity.principal_id if identity else "")
        definition = group_id.apply(definition_id)
        scopes = {"power-role": group_id}
        if config.existing_resource_group:
            scopes = {f"power-role-{index}": vm.id for index, vm in enumerate(machines)}
        for name, scope in scopes.items():
            authorization.RoleAssignment(
                place.logical(name),
                # Azure wants it unique in the tenant; a new head, with its new identity, gets
                # another.
                role_assignment_name=pulumi.Output.all(scope, principal).apply(_name),
                scope=scope,
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
