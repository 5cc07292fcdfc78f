"""One node: a network interface with a fixed address, and a Trusted Launch VM on it."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi_azure_native import compute, network

from infra.config.config import ClusterConfig
from infra.program.cloud_init import custom_data
from infra.program.data_disk import LUN
from infra.program.names import Names
from infra.program.place import Place
from infra.rules.kinds import NIC, VM


class Node(pulumi.ComponentResource):
    """A VM and its network interface; node 0 is the head and has the public address.

    Attributes:
        machine: the VM.
        name: the VM's, which is the node's host name.
        image: publisher:offer:sku:version that it was made from.
        key: the public SSH key that it was made with.
    """

    def __init__(
        self,
        index: int,
        config: ClusterConfig,
        place: Place,
        subnet_id: pulumi.Input[str],
        public_ip_id: pulumi.Input[str] | None = None,
        placement_id: pulumi.Input[str] | None = None,
        data_disk_id: pulumi.Input[str] | None = None,
        security_group_id: pulumi.Input[str] | None = None,
    ) -> None:
        super().__init__(
            "xeon-diffusion:infra:Node", place.logical(f"node-{index}"), None, place.inside
        )
        names = place.names
        interface = network.NetworkInterface(
            place.logical(f"interface-{index}"),
            network_interface_name=names.network_interface(index),
            resource_group_name=place.group,
            location=place.location,
            enable_accelerated_networking=True,
            network_security_group=(
                network.NetworkSecurityGroupArgs(id=security_group_id)
                if security_group_id
                else None
            ),
            ip_configurations=[
                network.NetworkInterfaceIPConfigurationArgs(
                    name="primary",
                    primary=True,
                    subnet=network.SubnetArgs(id=subnet_id),
                    private_ip_allocation_method="Static",
                    private_ip_address=str(config.private_ip(index)),
                    private_ip_address_version="IPv4",
                    public_ip_address=(
                        network.PublicIPAddressArgs(id=public_ip_id) if public_ip_id else None
                    ),
                )
            ],
            tags=place.tags,
            opts=place.settled.options(NIC, self),
        )
        self.machine = compute.VirtualMachine(
            place.logical(f"machine-{index}"),
            **machine(index, config, names, data_disk_id),
            resource_group_name=place.group,
            location=place.location,
            network_profile=compute.NetworkProfileArgs(
                network_interfaces=[
                    # Detach: the interface is a resource of this stack and outlives a VM that is
                    # replaced. `pulumi destroy` deletes it.
                    compute.NetworkInterfaceReferenceArgs(
                        id=interface.id, primary=True, delete_option="Detach"
                    )
                ]
            ),
            proximity_placement_group=(
                compute.SubResourceArgs(id=placement_id) if placement_id else None
            ),
            tags=place.tags,
            opts=place.settled.options(VM, self),
        )
        self.name = self.machine.name
        self.image = self.machine.storage_profile.apply(
            lambda profile: _image(profile.image_reference) if profile else None
        )
        self.key = self.machine.os_profile.apply(_key)
        self.register_outputs({"name": self.name, "interface_id": interface.id})


def _attached(disk_id: pulumi.Input[str]) -> compute.DataDiskArgs:
    """A disk that outlives the VM."""
    return compute.DataDiskArgs(
        lun=LUN,
        create_option="Attach",
        caching="None",
        managed_disk=compute.ManagedDiskParametersArgs(id=disk_id),
        delete_option="Detach",
    )


def _image(one: Any) -> str | None:
    return f"{one.publisher}:{one.offer}:{one.sku}:{one.version}" if one else None


def _key(profile: Any) -> str | None:
    linux = profile.linux_configuration if profile else None
    keys = linux.ssh.public_keys if linux and linux.ssh else None
    return keys[0].key_data if keys else None


def machine(
    index: int, config: ClusterConfig, names: Names, data_disk_id: pulumi.Input[str] | None = None
) -> dict[str, object]:
    """The VM's own properties, those that do not refer to its network or its place."""
    publisher, offer, sku, version = config.image.split(":")
    name, user = names.virtual_machine(index), config.admin_username
    properties: dict[str, object] = {
        "vm_name": name,
        "zones": [config.zone] if config.zone else None,
        "hardware_profile": compute.HardwareProfileArgs(vm_size=config.vm_size),
        "security_profile": compute.SecurityProfileArgs(
            security_type="TrustedLaunch",
            uefi_settings=compute.UefiSettingsArgs(secure_boot_enabled=True, v_tpm_enabled=True),
        ),
        "storage_profile": compute.StorageProfileArgs(
            image_reference=compute.ImageReferenceArgs(
                publisher=publisher, offer=offer, sku=sku, version=version
            ),
            os_disk=compute.OSDiskArgs(
                name=names.os_disk(index),
                create_option="FromImage",
                caching="ReadWrite",
                disk_size_gb=config.os_disk_size_gb,
                managed_disk=compute.ManagedDiskParametersArgs(
                    storage_account_type=config.os_disk_type
                ),
                # Azure's default, Detach, would leave a disk behind that is paid for.
                delete_option="Delete",
            ),
            data_disks=[_attached(data_disk_id)] if data_disk_id else None,
        ),
        "os_profile": compute.OSProfileArgs(
            computer_name=name,
            admin_username=user,
            custom_data=custom_data(user),
            linux_configuration=compute.LinuxConfigurationArgs(
                disable_password_authentication=True,
                provision_vm_agent=True,
                ssh=compute.SshConfigurationArgs(
                    public_keys=[
                        compute.SshPublicKeyArgs(
                            path=f"/home/{user}/.ssh/authorized_keys",
                            key_data=config.public_key,
                        )
                    ]
                ),
            ),
        ),
        # Without a storage account: Azure keeps the serial console's log in its own.
        "diagnostics_profile": compute.DiagnosticsProfileArgs(
            boot_diagnostics=compute.BootDiagnosticsArgs(enabled=True)
        ),
    }
    if config.head_may_deallocate and index == 0:
        properties["identity"] = compute.VirtualMachineIdentityArgs(
            type=compute.ResourceIdentityType.SYSTEM_ASSIGNED
        )
    # Named even where it is the default: what is absent from a state cannot be kept or compared.
    properties["priority"] = "Spot" if config.spot else "Regular"
    if config.spot:
        properties |= {
            "eviction_policy": config.spot_eviction_policy,
            "billing_profile": compute.BillingProfileArgs(max_price=config.spot_max_price),
        }
    return properties
