"""The cluster: everything that exists in Azure for one stack, and what the stack tells others."""

# No annotations from the future: Pulumi reads the types of a component as they are.
import dataclasses
from typing import Any

import pulumi
from pulumi_azure_native import compute

from infra import prices
from infra.config import settings
from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.program.checked import Checked
from infra.program.cloud_init import DATA_FOLDER
from infra.program.cluster_args import ClusterArgs
from infra.program.data_disk import data_disk
from infra.program.names import Names
from infra.program.network import Network
from infra.program.nodes import Node
from infra.program.place import Place
from infra.program.power_role import PowerRole
from infra.program.settled import Settled
from infra.program.spending import budget, nightly
from infra.rules.kinds import PLACEMENT

ALONE = "cluster"
"""A component of this name gives its parts no prefix."""


class Cluster(pulumi.ComponentResource):
    """A resource group, its own or an existing one, with a network and the nodes.

    Attributes:
        outputs: what the stack exports: an `infra.inventory.Inventory`.
    """

    resource_group: pulumi.Output[str]
    """Name of the group that holds all of it."""
    location: pulumi.Output[str]
    """Azure region."""
    gateway: pulumi.Output[str]
    """Address that SSH reaches the head at."""
    subnet_id: pulumi.Output[str]
    """The nodes' subnet."""
    machine_ids: pulumi.Output[list[str]]
    """The VMs, the head first."""
    names: pulumi.Output[list[str]]
    """Their names."""
    ssh_command: pulumi.Output[str]
    """Reaches the head."""

    def __init__(
        self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Ask for everything of one cluster.

        Raises:
            pulumi.RunError: the arguments are refused, with every reason.
        """
        checked = Checked()
        opts = pulumi.ResourceOptions.merge(opts, checked.options)
        super().__init__("xeon-diffusion:index:Cluster", name, None, opts)
        try:
            config = settings.validate(args, f"the arguments of {name}")
        except UserError as error:
            raise pulumi.RunError(str(error)) from None
        project, stack = pulumi.get_project(), pulumi.get_stack()
        prefix = "" if name == ALONE else f"{name}-"
        names = Names.chosen(config.name, project, f"{prefix}{stack}")
        tags = {**config.tags, "project": project, "stack": stack, "managed-by": "pulumi"}
        settled = Settled(name, config.replace_nodes)
        inside = pulumi.ResourceOptions(parent=self)
        place = Place.of(config, prefix, names, tags, settled, inside, self)
        network = Network(config, place)
        # In a group that has no region of its own, the network's place is the cluster's.
        place = dataclasses.replace(place, location=network.location)
        placement = None
        if config.proximity_placement_group:
            placement = compute.ProximityPlacementGroup(
                place.logical("placement"),
                proximity_placement_group_name=names.proximity_placement_group(config.zone),
                resource_group_name=place.group,
                location=place.location,
                proximity_placement_group_type="Standard",
                tags=tags,
                # Azure deletes none that holds VMs: they move to the next one first.
                opts=settled.options(PLACEMENT, self, delete_before_replace=False),
            )
        disk = data_disk(config, place, self) if config.data_disk_size_gb else None
        nodes = [
            Node(
                index,
                config,
                place,
                network.subnet_id,
                public_ip_id=network.head_address.id
                if network.head_address and not index
                else None,
                placement_id=placement.id if placement else None,
                data_disk_id=disk.id if disk and index == 0 else None,
                security_group_id=network.interface_rules_id,
            )
            for index in range(config.node_count)
        ]
        if config.monthly_budget:
            budget(config, place, network.group_id, self)
        if config.deallocate_at:
            nightly(config, place, [node.machine for node in nodes], self)
        if config.head_may_deallocate:
            PowerRole([node.machine for node in nodes], network.group_id, config, place)
        checked.refuse_violations(config.allow_ssh_from_anywhere)
        public = network.head_address.ip_address if network.head_address else None
        gateway = pulumi.Output.from_input(public or str(config.private_ip(0)))
        self.outputs: dict[str, Any] = {
            "user": config.admin_username,
            "ssh_private_key_path": config.private_key_path,
            "ssh_public_key": nodes[0].key,
            "gateway": gateway,
            "nodes": [
                {
                    "name": node.name,
                    "private_ip": str(config.private_ip(index)),
                    "public_ip": public if index == 0 else None,
                    "vcpus": config.size.vcpus,
                    "size": config.vm_size,
                    "image": node.image,
                    "ssh_public_key": node.key,
                }
                for index, node in enumerate(nodes)
            ],
            "name": names.resource_group() if config.existing_resource_group else place.group,
            "resource_group": place.group,
            "subscription_id": network.group_id.apply(lambda path: path.split("/")[2]),
            "location": place.location,
            "ssh_command": gateway.apply(lambda ip: ssh_command(config, ip)),
            **prices.of(config).outputs(),
            "data_folder": DATA_FOLDER if disk else None,
            "idle_minutes": config.idle_minutes,
            "config": config.as_strings(),
            "next": "pulumi stack output --json > cluster.json; then the ssh_command above",
        }
        self.resource_group, self.location, self.gateway = place.group, place.location, gateway
        self.subnet_id = pulumi.Output.from_input(network.subnet_id)
        self.machine_ids = pulumi.Output.all(*(node.machine.id for node in nodes))
        self.names = pulumi.Output.all(*(node.name for node in nodes))
        self.ssh_command = self.outputs["ssh_command"]
        self.register_outputs(
            {
                "resource_group": self.resource_group,
                "location": self.location,
                "gateway": self.gateway,
                "subnet_id": self.subnet_id,
                "machine_ids": self.machine_ids,
                "names": self.names,
                "ssh_command": self.ssh_command,
            }
        )


def ssh_command(config: ClusterConfig, address: str | None) -> str:
    """What a person types to reach the head."""
    key = f"-i {config.private_key_path} " if config.private_key_path else ""
    return f"ssh {key}{config.admin_username}@{address}"
