"""Where the parts of one cluster go, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.program.names import Names
from infra.program.settled import Settled


@dataclass(frozen=True)
class Place:
    """What every part of a cluster is given.

    Attributes:
        prefix: of the logical names, so that two clusters fit into one program.
        names: of the resources in Azure.
        group: the resource group's name.
        location: its region; the nodes of a cluster that exists stay where it is.
        tags: on whatever can have them.
        settled: makes the options that say what a change does.
        inside: options of the components.
    """

    prefix: str
    names: Names
    group: pulumi.Output[str]
    location: pulumi.Output[str]
    tags: Mapping[str, str]
    settled: Settled
    inside: pulumi.ResourceOptions

    def logical(self, name: str) -> str:
        """A resource's name in Pulumi's state."""
        return f"{self.prefix}{name}"
