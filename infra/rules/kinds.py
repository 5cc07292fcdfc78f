"""Types of resources in Azure as Pulumi names them, and what their names are called."""

from __future__ import annotations

VM = "azure-native:compute:VirtualMachine"
SUBNET = "azure-native:network:Subnet"
VNET = "azure-native:network:VirtualNetwork"
BUDGET = "azure-native:consumption:Budget"
SCHEDULE = "azure-native:devtestlab:GlobalSchedule"
DISK = "azure-native:compute:Disk"
PLACEMENT = "azure-native:compute:ProximityPlacementGroup"
GROUP = "azure-native:resources:ResourceGroup"
NIC = "azure-native:network:NetworkInterface"
NSG = "azure-native:network:NetworkSecurityGroup"
ROLE = "azure-native:authorization:RoleAssignment"
NAME_KEYS = {
    GROUP: "resourceGroupName",
    VNET: "virtualNetworkName",
    SUBNET: "subnetName",
    NSG: "networkSecurityGroupName",
    "azure-native:network:PublicIPAddress": "publicIpAddressName",
    "azure-native:network:NatGateway": "natGatewayName",
    NIC: "networkInterfaceName",
    VM: "vmName",
    DISK: "diskName",
    BUDGET: "budgetName",
    SCHEDULE: "name",
    PLACEMENT: "proximityPlacementGroupName",
    ROLE: "roleAssignmentName",
}
"""The input that becomes the last part of a resource's address in ARM."""

EXISTING_GROUP = "existing-resource-group"
"""A tag that everything bears which lies in a resource group that is not the stack's own."""

POWER_ROLE = "40c5ff49-9181-41f8-ae61-143b0e78555e"
"""Azure's built-in role "Desktop Virtualization Power On Off Contributor": among those that may
deallocate a VM the one that may change least besides (no disks, no new VMs, no logins)."""
