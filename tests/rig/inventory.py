"""The rig as an inventory: the shape that the stack's outputs have."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.rig.file_system import USER
from tests.rig.host import RigHost
from tests.rig.network import Network


def describe(
    network: Network,
    hosts: Sequence[RigHost],
    key: Path,
    ssh_config: Path,
    more: Mapping[str, object],
) -> dict[str, Any]:
    """Everything that infra/inventory.schema.json asks for, and a section on the rig itself."""
    processors = os.cpu_count() or 1
    nodes: list[dict[str, object]] = [
        {
            "name": host.name,
            "private_ip": str(host.address),
            "vcpus": processors,
            "size": "this machine",
        }
        for host in hosts
    ]
    nodes[0]["public_ip"] = str(network.public)
    return {
        "user": USER,
        "ssh_private_key_path": str(key),
        "gateway": str(network.public),
        "nodes": nodes,
        "resource_group": f"rig{network.slot}",
        "subscription_id": "00000000-0000-0000-0000-000000000000",
        "location": "this machine",
        "ssh_command": f"ssh -F {ssh_config} {hosts[0].name}",
        "price_per_hour_usd": 0.0,
        "price_as_of": "2026-01-01",
        "next": "fab bootstrap --inventory rig.json",
        "rig": {"slot": network.slot, "ssh_config": str(ssh_config), **more},
    }


def write(path: Path, inventory: Mapping[str, Any]) -> None:
    """Write it to a file that appears whole."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(json.dumps(inventory, indent=2) + "\n")
    unfinished.rename(path)
