"""A disk on the head for what outlives nodes: models, runs, latents."""

from __future__ import annotations

import pulumi
from pulumi_azure_native import compute

from infra.config.config import ClusterConfig
from infra.program.place import Place
from infra.rules.kinds import DISK

LUN = 0
"""Where the VM finds it: /dev/disk/azure/*/lun0 (`infra.program.cloud_init`)."""


def data_disk(config: ClusterConfig, place: Place, parent: pulumi.Resource) -> compute.Disk:
    """An empty disk, protected: Pulumi deletes it only after `pulumi state unprotect`."""
    return compute.Disk(
        place.logical("data-disk"),
        disk_name=place.names.data_disk(),
        resource_group_name=place.group,
        location=place.location,
        zones=[config.zone] if config.zone else None,
        sku=compute.DiskSkuArgs(name=config.data_disk_type),
        creation_data=compute.CreationDataArgs(create_option="Empty"),
        disk_size_gb=config.data_disk_size_gb,
        # Nobody downloads it by a link; a head reads it as its own.
        network_access_policy="DenyAll",
        public_network_access="Disabled",
        tags=place.tags,
        opts=place.settled.options(DISK, parent, protect=True),
    )
