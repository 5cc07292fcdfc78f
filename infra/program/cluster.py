"""The cluster: everything that exists in Azure for one stack, and what the stack tells others."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi_azure_native import compute, resources

from infra import prices
from infra.config.config import ClusterConfig
from infra.program.names import Names
from infra.program.network import Network
from infra.program.nodes import Node
from infra.program.power_role import PowerRole


class Cluster(pulumi.ComponentResource):
    """A resource group with a network and the nodes.

    Attributes:
        outputs: what the stack exports: an `infra.inventory.Inventory`.
    """

    def __init__(self, config: ClusterConfig) -> None:
        super().__init__("xeon-diffusion:infra:Cluster", "cluster")
        names = Names.of(pulumi.get_project(), pulumi.get_stack())
        tags = {
            **config.tags,
            "project": pulumi.get_project(),
            "stack": pulumi.get_stack(),
            "managed-by": "pulumi",
        }
        child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        group = resources.ResourceGroup(
            "resource-group",
            resource_group_name=names.resource_group(),
            location=config.location,
            tags=tags,
            opts=child,
        )
        inside = pulumi.ResourceOptions(parent=self)
        network = Network(config, names, group.name, tags, inside)
        placement = None
        if config.proximity_placement_group:
            placement = compute.ProximityPlacementGroup(
                "placement",
                proximity_placement_group_name=names.proximity_placement_group(),
                resource_group_name=group.name,
                location=config.location,
                proximity_placement_group_type="Standard",
                tags=tags,
                opts=child,
            )
        nodes = [
            Node(
                index,
                config,
                names,
                group.name,
                network.subnet.id,
                tags,
                inside,
                public_ip_id=network.head_address.id if index == 0 else None,
                placement_id=placement.id if placement else None,
            )
            for index in range(config.node_count)
        ]
        if config.head_may_deallocate:
            PowerRole(nodes[0].machine, group.id, inside)
        gateway = network.head_address.ip_address
        self.outputs: dict[str, Any] = {
            "user": config.admin_username,
            "ssh_private_key_path": config.private_key_path,
            "gateway": gateway,
            "nodes": [
                {
                    "name": names.virtual_machine(index),
                    "private_ip": str(config.private_ip(index)),
                    "public_ip": gateway if index == 0 else None,
                    "vcpus": config.size.vcpus,
                    "size": config.vm_size,
                }
                for index in range(config.node_count)
            ],
            "resource_group": group.name,
            "subscription_id": group.id.apply(lambda path: path.split("/")[2]),
            "location": config.location,
            "ssh_command": gateway.apply(lambda ip: ssh_command(config, ip)),
            **prices.of(config).outputs(),
            "next": "pulumi stack output --json > cluster.json; then the ssh_command above",
        }
        self.register_outputs(self.outputs)


def ssh_command(config: ClusterConfig, address: str | None) -> str:
    """What a person types to reach the head."""
    key = f"-i {config.private_key_path} " if config.private_key_path else ""
    return f"ssh {key}{config.admin_username}@{address}"
