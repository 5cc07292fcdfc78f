"""The network: a private subnet that reaches out through NAT, and lets one person's SSH in.

Rules are inline in the security group and the subnet is a resource of its own: mixing both ways
for one of them makes each update undo the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
from pulumi_azure_native import network

from infra.config.config import ClusterConfig
from infra.program.names import Names

SSH_PORT = "22"
ANY = "*"
NAT_IDLE_MINUTES = 10
"""How long a silent connection, such as a slow download, survives. Azure's default is 4."""


class Network(pulumi.ComponentResource):
    """Virtual network, subnet, security group, NAT gateway, and the head's public address."""

    def __init__(
        self,
        config: ClusterConfig,
        names: Names,
        group: pulumi.Input[str],
        tags: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("xeon-diffusion:infra:Network", "network", None, opts)
        # Names are fixed, so two of a kind cannot exist side by side, not even for a replacement.
        child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        zones = [config.zone] if config.zone else None

        def address(purpose: str) -> network.PublicIPAddress:
            return network.PublicIPAddress(
                f"{purpose}-address",
                public_ip_address_name=names.public_ip(purpose),
                resource_group_name=group,
                location=config.location,
                sku=network.PublicIPAddressSkuArgs(name="Standard", tier="Regional"),
                public_ip_address_version="IPv4",
                public_ip_allocation_method="Static",
                zones=zones,
                tags=tags,
                opts=child,
            )

        self.head_address = address("head")
        nat = network.NatGateway(
            "nat",
            nat_gateway_name=names.nat_gateway(),
            resource_group_name=group,
            location=config.location,
            sku=network.NatGatewaySkuArgs(name="Standard"),
            idle_timeout_in_minutes=NAT_IDLE_MINUTES,
            public_ip_addresses=[network.SubResourceArgs(id=address("nat").id)],
            zones=zones,
            tags=tags,
            opts=child,
        )
        security_group = network.NetworkSecurityGroup(
            "security-group",
            network_security_group_name=names.network_security_group(),
            resource_group_name=group,
            location=config.location,
            security_rules=security_rules(config),
            tags=tags,
            opts=child,
        )
        virtual_network = network.VirtualNetwork(
            "virtual-network",
            virtual_network_name=names.virtual_network(),
            resource_group_name=group,
            location=config.location,
            address_space=network.AddressSpaceArgs(address_prefixes=[str(config.vnet_cidr)]),
            tags=tags,
            opts=child,
        )
        self.subnet = network.Subnet(
            "subnet",
            subnet_name=names.subnet(),
            resource_group_name=group,
            virtual_network_name=virtual_network.name,
            address_prefix=str(config.subnet_cidr),
            # No address of Azure's own choosing for outbound traffic: the NAT gateway's only.
            default_outbound_access=False,
            nat_gateway=network.SubResourceArgs(id=nat.id),
            network_security_group=network.NetworkSecurityGroupArgs(id=security_group.id),
            opts=child,
        )
        self.register_outputs({})


def security_rules(config: ClusterConfig) -> list[network.SecurityRuleArgs]:
    """Who may open a connection to a node; a lower priority is looked at first."""
    nodes, head = str(config.subnet_cidr), str(config.private_ip(0))

    def rule(
        name: str, priority: int, access: str, source: str, destination: str, **more: str
    ) -> network.SecurityRuleArgs:
        return network.SecurityRuleArgs(
            name=name,
            priority=priority,
            direction="Inbound",
            access=access,
            protocol=more.get("protocol", ANY),
            source_address_prefix=source,
            source_port_range=ANY,
            destination_address_prefix=destination,
            destination_port_range=more.get("port", ANY),
            description=more["description"],
        )

    return [
        rule(
            *("AllowCluster", 100, "Allow", nodes, nodes),
            description="Nodes reach each other on every port: MPI chooses its own.",
        ),
        rule(
            *("AllowSshToHead", 110, "Allow", str(config.allowed_ssh_cidr), head),
            protocol="Tcp",
            port=SSH_PORT,
            description="The person who runs the cluster; workers are reached through the head.",
        ),
        rule(
            *("DenyAllElse", 4096, "Deny", ANY, ANY),
            description="Azure's own rules would admit peered networks and load balancers.",
        ),
    ]
