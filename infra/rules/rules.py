"""What must hold of every plan, whatever the config; a rule names what breaks it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from typing import Any

from infra.rules.kinds import (
    BUDGET,
    DISK,
    GROUP,
    NIC,
    NSG,
    PLACEMENT,
    POWER_ROLE,
    ROLE,
    SUBNET,
    VM,
    VNET,
)
from infra.rules.packets import LOAD_BALANCER, PEERED, Packet, allows

PlanData = dict[str, Any]
Rule = Callable[[PlanData], Iterator[str]]

UNKNOWN = "(known after creation)"
"""Stands in a preview for what only Azure can know."""
UNTAGGED = {BUDGET, SUBNET, ROLE}
"""ARM has no tags on these."""
CLUSTER_RULE = "AllowCluster"
STRANGER = IPv4Address("192.0.2.99")
"""RFC 5737: an address on the Internet that is nobody's."""
PROBED_PORTS = (22, 80, 443, 3389, 29500, 65535)
_SECRET = re.compile(r"PRIVATE KEY|\"(adminPassword|password|secret|connectionString|sasToken)\"")


def of_type(plan: PlanData, kind: str) -> list[dict[str, Any]]:
    """The plan's resources of one type."""
    return [resource for resource in plan["resources"] if resource["type"] == kind]


def _network(plan: PlanData) -> tuple[list[dict[str, Any]], tuple[IPv4Network, ...]]:
    (group,) = of_type(plan, NSG)
    prefixes = [
        prefix
        for vnet in of_type(plan, VNET)
        for prefix in vnet["inputs"]["addressSpace"]["addressPrefixes"]
    ]
    # In somebody else's network all but the cluster's own part is outside.
    own = tuple(map(IPv4Network, prefixes)) or _subnet(plan)
    return group["inputs"]["securityRules"], own


def _subnet(plan: PlanData) -> tuple[IPv4Network, ...]:
    subnets = [subnet["inputs"]["addressPrefixes"] for subnet in of_type(plan, SUBNET)]
    if not subnets:
        (group,) = of_type(plan, NSG)
        (rule,) = (one for one in group["inputs"]["securityRules"] if one["name"] == CLUSTER_RULE)
        subnets = [rule.get("sourceAddressPrefixes") or [rule["sourceAddressPrefix"]]]
    return tuple(IPv4Network(prefix) for prefixes in subnets for prefix in prefixes)


def _within(address: IPv4Address, ranges: Iterable[IPv4Network]) -> bool:
    return any(address in one for one in ranges)


def not_open_to_the_world(plan: PlanData) -> Iterator[str]:
    """Nobody on the internet reaches any node, on any port."""
    rules, vnet = _network(plan)
    for node in plan["outputs"]["nodes"]:
        for port in PROBED_PORTS:
            for protocol in ("Tcp", "Udp"):
                packet = Packet(STRANGER, IPv4Address(node["private_ip"]), port, protocol)
                rule = allows(rules, packet, vnet)
                if rule:
                    yield f"{node['name']}: rule {rule} admits anybody to {protocol} port {port}"


def workers_closed(plan: PlanData) -> Iterator[str]:
    """Nothing outside the cluster's subnet reaches a worker, the person's own range included."""
    rules, vnet = _network(plan)
    # The first address of each range that a rule admits, peers, and load balancers.
    sources = {PEERED, LOAD_BALANCER, STRANGER}
    own = _subnet(plan)
    for rule in rules:
        for text in [rule.get("sourceAddressPrefix"), *(rule.get("sourceAddressPrefixes") or [])]:
            if text and re.fullmatch(r"[\d.]+/\d+", text):
                sources.add(IPv4Network(text)[0])
    outside = [source for source in sorted(sources) if not _within(source, own)]
    for node in plan["outputs"]["nodes"][1:]:
        for source in outside:
            for port in PROBED_PORTS:
                packet = Packet(source, IPv4Address(node["private_ip"]), port)
                if rule_name := allows(rules, packet, vnet):
                    yield f"{node['name']}: rule {rule_name} admits {source} to port {port}"


def nodes_reach_each_other(plan: PlanData) -> Iterator[str]:
    """Every node reaches every other on every port."""
    rules, vnet = _network(plan)
    addresses = [IPv4Address(node["private_ip"]) for node in plan["outputs"]["nodes"]]
    for source, destination in pairwise(addresses):
        for protocol in ("Tcp", "Udp"):
            for pair in ((source, destination), (destination, source)):
                if not allows(rules, Packet(*pair, 29500, protocol), vnet):
                    yield f"{pair[0]} does not reach {pair[1]} ({protocol})"


def one_public_interface(plan: PlanData) -> Iterator[str]:
    """Only the head's interface has a public address, if any has."""
    wanted = any(one["name"] == "head-address" for one in plan["resources"])
    for interface in of_type(plan, NIC):
        public = [
            one for one in interface["inputs"]["ipConfigurations"] if "publicIPAddress" in one
        ]
        if bool(public) != (wanted and interface["name"] == "interface-0"):
            yield f"{interface['name']}: has {len(public)} public addresses"


def static_private_addresses(plan: PlanData) -> Iterator[str]:
    """Each interface has one fixed address inside the subnet, with accelerated networking."""
    own = _subnet(plan)
    seen = set()
    for interface in of_type(plan, NIC):
        if interface["inputs"].get("enableAcceleratedNetworking") is not True:
            yield f"{interface['name']}: accelerated networking is off"
        for one in interface["inputs"]["ipConfigurations"]:
            address = one.get("privateIPAddress")
            static = one.get("privateIPAllocationMethod") == "Static"
            inside = address is not None and _within(IPv4Address(address), own)
            if not static or not inside or address in seen:
                where = ", ".join(map(str, own))
                yield f"{interface['name']}: {address} is no static address of its own in {where}"
            seen.add(address)


def private_subnet(plan: PlanData) -> Iterator[str]:
    """The subnet has a security group, a NAT gateway, and no address of Azure's choosing.

    In somebody else's subnet each interface has the security group.
    """
    if not of_type(plan, SUBNET):
        for interface in of_type(plan, NIC):
            if "networkSecurityGroup" not in interface["inputs"]:
                yield f"{interface['name']}: has no networkSecurityGroup"
    for subnet in of_type(plan, SUBNET):
        inputs = subnet["inputs"]
        if inputs.get("defaultOutboundAccess") is not False:
            yield f"{subnet['name']}: default outbound access is on"
        for key in ("natGateway", "networkSecurityGroup"):
            if key not in inputs:
                yield f"{subnet['name']}: has no {key}"


def no_secrets(plan: PlanData) -> Iterator[str]:
    """No private key, password or token in any input or output, encoded ones included."""
    for resource in [*plan["resources"], {"name": "outputs", "inputs": plan["outputs"]}]:
        text = json.dumps(resource["inputs"])
        for encoded in re.findall(r"[A-Za-z0-9+/]{40,}={0,2}", text):
            try:
                text += base64.b64decode(encoded, validate=True).decode("latin-1")
            except binascii.Error:
                continue
        if found := _SECRET.search(text):
            yield f"{resource['name']}: holds what looks like a secret ({found[0]})"


def trusted_launch(plan: PlanData) -> Iterator[str]:
    """Every VM is a Trusted Launch VM without password login, with boot diagnostics."""
    for machine in of_type(plan, VM):
        inputs = machine["inputs"]
        profile = inputs.get("securityProfile", {})
        if profile.get("securityType") != "TrustedLaunch" or profile.get("uefiSettings") != {
            "secureBootEnabled": True,
            "vTpmEnabled": True,
        }:
            yield f"{machine['name']}: is not Trusted Launch with secure boot and vTPM"
        linux = inputs.get("osProfile", {}).get("linuxConfiguration", {})
        if linux.get("disablePasswordAuthentication") is not True:
            yield f"{machine['name']}: password login is on"
        if not inputs.get("diagnosticsProfile", {}).get("bootDiagnostics", {}).get("enabled"):
            yield f"{machine['name']}: boot diagnostics are off"


def _group_of(inputs: dict[str, Any]) -> str:
    """The resource group that a request is for."""
    if "scope" in inputs:
        return str(inputs["scope"]).rpartition("/resourceGroups/")[2].partition("/")[0]
    return str(inputs["resourceGroupName"])


def _groups(plan: PlanData) -> tuple[str, ...]:
    """The stack's own resource group, or the existing one that its network is in."""
    own = of_type(plan, GROUP) or of_type(plan, NSG)
    return (UNKNOWN, *(one["inputs"]["resourceGroupName"] for one in own))


def least_rights(plan: PlanData) -> Iterator[str]:
    """No VM has an identity but the head's own, and that may switch the cluster's VMs, no more."""
    for machine in of_type(plan, VM):
        kind = machine["inputs"].get("identity", {}).get("type")
        if kind is not None and (machine["name"], kind) != ("machine-0", "SystemAssigned"):
            yield f"{machine['name']}: has an identity ({kind})"
    shared = not of_type(plan, GROUP)
    for role in of_type(plan, ROLE):
        if "machine-0" not in role["depends_on"]:
            yield f"{role['name']}: is given to somebody else than the head"
        definition = str(role["inputs"]["roleDefinitionId"]).rpartition("/")[2]
        if definition not in (POWER_ROLE, UNKNOWN):
            yield f"{role['name']}: gives a role ({definition}) that may more than switch VMs"
        scope = str(role["inputs"]["scope"])
        beyond = shared and "/virtualMachines/" not in scope and scope != UNKNOWN
        if beyond or _group_of(role["inputs"]) not in _groups(plan):
            yield f"{role['name']}: gives rights beyond the cluster ({role['inputs']['scope']})"


def nothing_left_behind(plan: PlanData) -> Iterator[str]:
    """`pulumi destroy` deletes all but a data disk: one group, nothing else kept or detached.

    In an existing group it deletes each resource by itself, and leaves the group.
    """
    own = _groups(plan)
    for resource in plan["resources"]:
        name = resource["name"]
        protected = resource["protect"] and resource["type"] != DISK
        if protected or resource["retain_on_delete"] or resource["import_id"]:
            yield f"{name}: is protected, retained or imported"
        if resource["custom"] and _group_of(resource["inputs"]) not in own:
            yield f"{name}: lies outside the stack's resource group"
        # A placement group's successor has another name, and VMs move into it first.
        second = resource["type"] != PLACEMENT and not resource["delete_before_replace"]
        if resource["custom"] and second:
            yield f"{name}: would be replaced by a second one of the same name"
    for machine in of_type(plan, VM):
        if machine["inputs"]["storageProfile"]["osDisk"].get("deleteOption") != "Delete":
            yield f"{machine['name']}: leaves its OS disk behind"
        for one in machine["inputs"]["storageProfile"].get("dataDisks", ()):
            if one.get("deleteOption") != "Detach":
                yield f"{machine['name']}: would delete the data disk"
        for one in machine["inputs"]["networkProfile"]["networkInterfaces"]:
            if one.get("deleteOption") != "Detach":
                yield f"{machine['name']}: would delete an interface that Pulumi owns"


def data_outlives_nodes(plan: PlanData) -> Iterator[str]:
    """A data disk is protected, the head's alone, and closed to links from outside."""
    for disk in of_type(plan, DISK):
        if not disk["protect"]:
            yield f"{disk['name']}: is not protected"
        if disk["inputs"].get("networkAccessPolicy") != "DenyAll":
            yield f"{disk['name']}: can be downloaded by a link"
    for machine in of_type(plan, VM):
        if machine["inputs"]["storageProfile"].get("dataDisks") and machine["name"] != "machine-0":
            yield f"{machine['name']}: has a data disk"


def tags_on_everything(plan: PlanData) -> Iterator[str]:
    """Whatever can have tags says which stack it belongs to."""
    for resource in plan["resources"]:
        if resource["custom"] and resource["type"] not in UNTAGGED:
            tags = resource["inputs"].get("tags", {})
            if not {"project", "stack", "managed-by"} <= set(tags):
                yield f"{resource['name']}: lacks the tags project, stack, managed-by"


RULES: tuple[Rule, ...] = (
    not_open_to_the_world,
    workers_closed,
    nodes_reach_each_other,
    one_public_interface,
    static_private_addresses,
    private_subnet,
    no_secrets,
    trusted_launch,
    least_rights,
    nothing_left_behind,
    data_outlives_nodes,
    tags_on_everything,
)


def violations(plan: PlanData, ssh_from_anywhere: bool = False) -> list[str]:
    """Every broken rule, as `rule: what breaks it`.

    Args:
        plan: `resources` and `outputs`.
        ssh_from_anywhere: the person asked for it, in so many words, and for the head's SSH alone.
    """
    found = [f"{rule.__name__}: {text}" for rule in RULES for text in rule(plan)]
    if not ssh_from_anywhere:
        return found
    head = plan["outputs"]["nodes"][0]["name"]
    asked_for = f"{head}: rule AllowSshToHead admits anybody to Tcp port 22"
    return [text for text in found if asked_for not in text]
