"""Where the parts of one cluster go, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_azure_native import resources

from infra.config.config import ClusterConfig
from infra.program.names import Names
from infra.program.settled import Settled
from infra.rules.kinds import EXISTING_GROUP, GROUP


@dataclass(frozen=True)
class Place:
    """What every part of a cluster is given.

    Attributes:
        prefix: of the logical names, so that two clusters fit into one program.
        names: of the resources in Azure.
        group: the resource group's name.
        group_id: its address in ARM; None: the group is not the stack's own.
        location: its region; the nodes of a cluster that exists stay where it is.
        tags: on whatever can have them.
        settled: makes the options that say what a change does.
        inside: options of the components.
    """

    prefix: str
    names: Names
    group: pulumi.Output[str]
    group_id: pulumi.Output[str] | None
    location: pulumi.Output[str]
    tags: Mapping[str, str]
    settled: Settled
    inside: pulumi.ResourceOptions

    @classmethod
    def of(
        cls,
        config: ClusterConfig,
        prefix: str,
        names: Names,
        tags: Mapping[str, str],
        settled: Settled,
        inside: pulumi.ResourceOptions,
        parent: pulumi.Resource,
    ) -> Place:
        """In the resource group that is named, or in one of its own."""
        if config.existing_resource_group:
            name = pulumi.Output.from_input(config.existing_resource_group)
            location = pulumi.Output.from_input(config.location)
            # Told by the tag, as the group itself is none of the stack's (`infra.program.changes`).
            tags = {**tags, EXISTING_GROUP: config.existing_resource_group}
            return cls(prefix, names, name, None, location, tags, settled, inside)
        group = resources.ResourceGroup(
            f"{prefix}resource-group",
            resource_group_name=names.resource_group(),
            location=config.location,
            tags=tags,
            opts=settled.options(GROUP, parent),
        )
        return cls(prefix, names, group.name, group.id, group.location, tags, settled, inside)

    def logical(self, name: str) -> str:
        """A resource's name in Pulumi's state."""
        return f"{self.prefix}{name}"
