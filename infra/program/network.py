"""The network: a private subnet that reaches out through NAT, and lets one person's SSH in.

Rules are inline in the security group and the subnet is a resource of its own: mixing both ways
for one of them makes each update undo the other.
"""

from __future__ import annotations

import pulumi
from pulumi_azure_native import network

from infra.config.config import ClusterConfig
from infra.program.place import Place

SSH_PORT = "22"
ANY = "*"
NAT_IDLE_MINUTES = 10
"""How long a silent connection, such as a slow download, survives. Azure's default is 4."""


class Network(pulumi.ComponentResource):
    """Virtual network, subnet, security group, NAT gateway, and the head's public address.

    Attributes:
        head_address: absent where the head has none.
        subnet_id: the nodes' subnet, in ARM.
        group_id: the resource group, in ARM.
        location: the region that all of it is in.
        interface_rules_id: the security group, where it is the interfaces' and not the subnet's.
    """

    def __init__(
        self,
        config: ClusterConfig,
        place: Place,
    ) -> None:
        super().__init__(
            "xeon-diffusion:infra:Network", place.logical("network"), None, place.inside
        )
        names, group = place.names, place.group

        def child(kind: str) -> pulumi.ResourceOptions:
            return place.settled.options(f"azure-native:network:{kind}", self)

        def address(purpose: str) -> network.PublicIPAddress:
            return network.PublicIPAddress(
                place.logical(f"{purpose}-address"),
                public_ip_address_name=names.public_ip(purpose),
                resource_group_name=group,
                location=self.location,
                sku=network.PublicIPAddressSkuArgs(name="Standard", tier="Regional"),
                public_ip_address_version="IPv4",
                public_ip_allocation_method="Static",
                tags=place.tags,
                opts=child("PublicIPAddress"),
            )

        security_group = network.NetworkSecurityGroup(
            place.logical("security-group"),
            network_security_group_name=names.network_security_group(),
            resource_group_name=group,
            location=place.location,
            security_rules=security_rules(config),
            tags=place.tags,
            opts=child("NetworkSecurityGroup"),
        )
        self.location = place.location
        if place.group_id is None:
            self.location = security_group.location.apply(str)
        of_network = security_group.id.apply(lambda path: "/".join(path.split("/")[:5]))
        self.group_id = place.group_id or of_network
        self.head_address = address("head") if config.public_address else None
        self.subnet_id: pulumi.Input[str] = config.existing_subnet_id
        # Somebody else's subnet keeps what it has: the rules go to the nodes' interfaces.
        self.interface_rules_id = security_group.id if config.existing_subnet_id else None
        if config.existing_subnet_id:
            self.register_outputs({"subnet_id": self.subnet_id})
            return
        nat = network.NatGateway(
            place.logical("nat"),
            nat_gateway_name=names.nat_gateway(),
            resource_group_name=group,
            location=self.location,
            sku=network.NatGatewaySkuArgs(name="Standard"),
            idle_timeout_in_minutes=NAT_IDLE_MINUTES,
            public_ip_addresses=[network.SubResourceArgs(id=address("nat").id)],
            tags=place.tags,
            opts=child("NatGateway"),
        )
        virtual_network = network.VirtualNetwork(
            place.logical("virtual-network"),
            virtual_network_name=names.virtual_network(),
            resource_group_name=group,
            location=self.location,
            address_space=network.AddressSpaceArgs(
                address_prefixes=[str(one) for one in config.vnet_cidr]
            ),
            tags=place.tags,
            opts=child("VirtualNetwork"),
        )
        subnet = network.Subnet(
            place.logical("subnet"),
            subnet_name=names.subnet(),
            resource_group_name=group,
            virtual_network_name=virtual_network.name,
            address_prefixes=[str(one) for one in config.subnet_cidr],
            # No address of Azure's own choosing for outbound traffic: the NAT gateway's only.
            default_outbound_access=False,
            nat_gateway=network.SubResourceArgs(id=nat.id),
            network_security_group=network.NetworkSecurityGroupArgs(id=security_group.id),
            opts=child("Subnet"),
        )
        self.subnet_id = subnet.id
        self.register_outputs({"subnet_id": subnet.id, "virtual_network_id": virtual_network.id})


def security_rules(config: ClusterConfig) -> list[network.SecurityRuleArgs]:
    """Who may open a connection to a node; a lower priority is looked at first."""
    nodes = [str(one) for one in config.subnet_cidr]
    people = [str(one) for one in config.allowed_ssh_cidr]

    def rule(
        name: str,
        priority: int,
        access: str,
        source: list[str],
        destination: list[str],
        **more: str,
    ) -> network.SecurityRuleArgs:
        return network.SecurityRuleArgs(
            name=name,
            priority=priority,
            direction="Inbound",
            access=access,
            protocol=more.get("protocol", ANY),
            **_prefixes("source", source),
            source_port_range=ANY,
            **_prefixes("destination", destination),
            destination_port_range=more.get("port", ANY),
            description=more["description"],
        )

    return [
        rule(
            *("AllowCluster", 100, "Allow", nodes, nodes),
            description="Nodes reach each other on every port: MPI chooses its own.",
        ),
        rule(
            *("AllowSshToHead", 110, "Allow", people, [str(config.private_ip(0))]),
            protocol="Tcp",
            port=SSH_PORT,
            description="The person who runs the cluster; workers are reached through the head.",
        ),
        rule(
            *("DenyAllElse", 4096, "Deny", [ANY], [ANY]),
            description="Azure's own rules would admit peered networks and load balancers.",
        ),
    ]


def _prefixes(which: str, ranges: list[str]) -> dict[str, object]:
    """One address range or several: Azure has a property for each case."""
    if len(ranges) == 1:
        return {f"{which}_address_prefix": ranges[0]}
    return {f"{which}_address_prefixes": ranges}
