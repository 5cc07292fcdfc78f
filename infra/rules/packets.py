"""Would Azure let this connection in? Security rules evaluated as Azure does, defaults included.

https://learn.microsoft.com/azure/virtual-network/network-security-groups-overview
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

DEFAULT_RULES: tuple[dict[str, Any], ...] = tuple(
    {
        "name": name,
        "priority": priority,
        "direction": "Inbound",
        "access": access,
        "protocol": "*",
        "sourceAddressPrefix": source,
        "sourcePortRange": "*",
        "destinationAddressPrefix": destination,
        "destinationPortRange": "*",
    }
    for name, priority, access, source, destination in (
        ("AllowVnetInBound", 65000, "Allow", "VirtualNetwork", "VirtualNetwork"),
        ("AllowAzureLoadBalancerInBound", 65001, "Allow", "AzureLoadBalancer", "*"),
        ("DenyAllInBound", 65500, "Deny", "*", "*"),
    )
)
"""What every security group ends with, whether one wants it or not."""

PEERED = IPv4Address("10.200.0.4")
"""Stands for a machine in a network that somebody peered with this one."""
LOAD_BALANCER = IPv4Address("168.63.129.16")
"""The address that Azure's load balancers probe from."""


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection to a node."""

    source: IPv4Address
    destination: IPv4Address
    port: int
    protocol: str = "Tcp"


def allows(
    rules: Iterable[Mapping[str, Any]], packet: Packet, vnet: Collection[IPv4Network]
) -> str | None:
    """The name of the rule that lets a packet in, or None where it is turned away."""
    inbound = [rule for rule in (*rules, *DEFAULT_RULES) if rule["direction"] == "Inbound"]
    for rule in sorted(inbound, key=lambda rule: int(rule["priority"])):
        if _matches(rule, packet, vnet):
            return str(rule["name"]) if rule["access"] == "Allow" else None
    return None


def _matches(rule: Mapping[str, Any], packet: Packet, vnet: Collection[IPv4Network]) -> bool:
    return (
        rule["protocol"] in ("*", packet.protocol)
        and any(_holds(text, packet.source, vnet) for text in _all(rule, "sourceAddressPrefix"))
        and any(
            _holds(text, packet.destination, vnet)
            for text in _all(rule, "destinationAddressPrefix")
        )
        and any(_in_range(text, packet.port) for text in _all(rule, "destinationPortRange"))
    )


def _all(rule: Mapping[str, Any], key: str) -> Sequence[str]:
    """A rule's value and its values: Azure has a key for one and another for several."""
    several = rule.get(f"{key}es" if key.endswith("x") else f"{key}s") or []
    return [*([str(rule[key])] if rule.get(key) else []), *several]


def _holds(prefix: str, address: IPv4Address, vnet: Collection[IPv4Network]) -> bool:
    if prefix in ("*", "0.0.0.0/0"):
        return True
    if prefix == "VirtualNetwork":
        # The tag means the network itself and every network that is peered with it.
        return any(address in one for one in vnet) or address == PEERED
    if prefix == "AzureLoadBalancer":
        return address == LOAD_BALANCER
    if prefix == "Internet":
        return not any(address in one for one in vnet) and address != PEERED
    return address in IPv4Network(prefix)


def _in_range(text: str, port: int) -> bool:
    if text == "*":
        return True
    first, _, last = text.partition("-")
    return int(first) <= port <= int(last or first)
