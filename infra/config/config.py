"""The cluster's configuration: one documented field per key of Pulumi's stack config."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from infra.config import sizes
from infra.config.keys import read_public_key
from infra.config.values import (
    ClusterName,
    DiskType,
    GroupName,
    Image,
    KeyPath,
    Login,
    PrivateRanges,
    PublicKey,
    Ranges,
    Region,
    SizeName,
    SubnetId,
    Tags,
    TimeOfDay,
    apart,
)

FIRST_HOST = 4
"""Azure keeps the first four addresses of a subnet and the last."""
RESERVED_ADDRESSES = 5
WIDE_OPEN_PREFIX = 8
"""An SSH range with a shorter prefix is a large part of the internet."""


SHORTEST_IDLE_MINUTES = 10
"""Shorter, a pause between two commands would switch the cluster off."""


def _key(default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, validate_default=True, **limits)


class ClusterConfig(BaseModel):
    """Everything that decides what exists in Azure. Sizes are in GB, prices in USD per hour."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    # Earlier fields come first because later rules look at them.
    name: ClusterName = _key(
        "",
        "Part of the name of every Azure resource (rg-NAME, vm-NAME-0); empty: the project's"
        " and the stack's name. Existing resources keep their names.",
    )
    location: Region = _key("eastus", "Azure region, as 'az account list-locations' names it.")
    existing_resource_group: GroupName = _key(
        "",
        "Name of a resource group of yours that everything goes into, in the same region; empty:"
        " the cluster has one of its own, which pulumi destroy deletes. Chosen when a cluster is"
        " made.",
    )
    node_count: int = _key(3, "Number of VMs; the first one is the head.", ge=1, le=100)
    vm_size: SizeName = _key(
        "Standard_D16s_v5", "VM size: Dv5, Dsv5, Ddv5, Ddsv5, Dsv6 or Ddsv6, 4 vCPUs or more."
    )
    zone: Literal["", "1", "2", "3"] = _key(
        "", "Availability zone of all VMs; empty: Azure chooses."
    )
    admin_username: Login = _key("azureuser", "Name of the account on every node.")
    image: Image = _key(
        "Canonical:ubuntu-24_04-lts:server:24.04.202609040",
        "Gen2 x64 image as publisher:offer:sku:version, the version pinned.",
    )
    os_disk_size_gb: int = _key(128, "Size of each node's OS disk in GB.", ge=30, le=4095)
    os_disk_type: DiskType = _key(
        "StandardSSD_LRS", "Type of the OS disks; Premium_LRS needs a VM size with an s (Dsv5)."
    )
    data_disk_size_gb: int = _key(
        0,
        "Size in GB of a data disk, mounted at /data on the head, that outlives the nodes; 0:"
        " no disk. Protected: Pulumi does not delete it.",
        ge=0,
        le=32767,
    )
    data_disk_type: DiskType = _key(
        "StandardSSD_LRS", "Type of the data disk; Premium_LRS needs a VM size with an s."
    )
    vnet_cidr: PrivateRanges = _key(
        "10.0.0.0/16",
        "Address range of the virtual network; to extend it, append ',' and another range.",
    )
    subnet_cidr: Ranges = _key(
        "10.0.0.0/24",
        "Address range of the nodes' subnet, inside vnet_cidr; Azure reserves five addresses"
        " of each range. To extend it, append ',' and another range.",
    )
    existing_subnet_id: SubnetId = _key(
        "",
        "ARM ID of a subnet in your own network, with outbound internet access; empty: a"
        " network is created. subnet_cidr is then the cluster's part of the subnet, vnet_cidr"
        " the range of your network.",
    )
    public_address: bool = _key(
        True,
        "Whether the head has a public address; without one, connect through a VPN, a jump"
        " host or Azure Bastion.",
    )
    allow_ssh_from_anywhere: bool = _key(
        False, "Must be true for an allowed_ssh_cidr wider than a /8."
    )
    allowed_ssh_cidr: Ranges = _key(
        ...,
        "The only address range that can connect to the head by SSH: your own public address,"
        " such as x.x.x.x/32; separate several with ','.",
    )
    ssh_public_key: PublicKey = _key(
        "", "Public key (ed25519 or RSA) installed on every node: the line in its .pub file."
    )
    ssh_public_key_path: Path = _key(
        "~/.ssh/id_ed25519.pub", "File of the public key, read when ssh_public_key is empty."
    )
    ssh_private_key_path: KeyPath = _key(
        "auto",
        "Private key that fab uses: a path, 'agent' (agent or hardware key), or 'auto': fab"
        " looks in ~/.ssh for the key that belongs to the public key. Only the path is stored,"
        " never the key.",
    )
    proximity_placement_group: bool = _key(
        True, "Ask Azure to place the VMs close together: less latency between ranks."
    )
    spot: bool = _key(False, "Spot VMs: cheaper, but Azure can evict them at any time.")
    spot_max_price: float = _key(
        -1, "Highest spot price in USD per VM per hour; -1: up to the pay-as-you-go price."
    )
    spot_eviction_policy: Literal["Deallocate", "Delete"] = _key(
        "Deallocate", "What happens to an evicted spot VM; Deallocate keeps its disk."
    )
    tags: Tags = _key("", "Tags of every resource that supports tags, as name=value,name=value.")
    head_may_deallocate: bool = _key(
        False,
        "Give the head a managed identity that may start and deallocate this cluster's VMs,"
        " for fab train --then-pause. Creating it needs the role Owner or User Access"
        " Administrator.",
    )
    idle_minutes: int = _key(
        0,
        "Minutes without a training, a drawing or a command of fab after which the head"
        " deallocates every VM; 0: never. Needs head_may_deallocate; fab bootstrap starts the"
        " watch, and fab stay-awake holds it off.",
        ge=0,
    )
    deallocate_at: TimeOfDay = _key(
        "",
        "Time of day (UTC, HHMM) at which every VM is deallocated, whatever runs on it;"
        " empty: never.",
    )
    monthly_budget: int = _key(
        0,
        "Monthly budget in the account's currency; Azure sends a mail when costs approach it;"
        " 0: no budget.",
        ge=0,
    )
    budget_email: str = _key(
        "", "Address that Azure mails when costs reach 80 and 100 percent of monthly_budget."
    )
    replace_nodes: bool = _key(
        False, "Replace VMs and their disks where Azure cannot change an existing VM."
    )

    @field_validator("os_disk_type", "data_disk_type")
    @classmethod
    def _a_disk_that_fits(cls, value: str, info: ValidationInfo) -> str:
        size = info.data.get("vm_size")
        if value == "Premium_LRS" and size and not sizes.parse(size).premium_disks:
            with_s = size.replace("_v", "s_v")
            raise ValueError(f"{size} has no Premium disks; take {with_s} or StandardSSD_LRS")
        return value

    @field_validator("subnet_cidr")
    @classmethod
    def _room_for_the_nodes(cls, value: Ranges, info: ValidationInfo) -> Ranges:
        vnet, count = info.data.get("vnet_cidr"), info.data.get("node_count", 1)
        for one in value:
            if vnet is not None and not any(one.subnet_of(space) for space in vnet):
                raise ValueError(f"must lie inside vnet_cidr ({_shown(vnet)})")
        free = sum(max(0, one.num_addresses - RESERVED_ADDRESSES) for one in value)
        if any(one.prefixlen > 29 for one in value) or free < count:
            widest = min(29, 32 - (count + RESERVED_ADDRESSES - 1).bit_length())
            raise ValueError(
                f"has {free} free addresses for {count} nodes (Azure keeps"
                f" {RESERVED_ADDRESSES}, and takes /29 at the smallest); take a /{widest} or"
                " larger, or, on a cluster that exists, add a range: A,B"
            )
        return apart(value)

    @field_validator("allowed_ssh_cidr")
    @classmethod
    def _not_the_world(cls, value: Ranges, info: ValidationInfo) -> Ranges:
        for one in value:
            if one.prefixlen < WIDE_OPEN_PREFIX:
                if not info.data.get("allow_ssh_from_anywhere", True):
                    raise ValueError(
                        "opens SSH to a large part of the internet; give your own address"
                        " (curl -4 https://ifconfig.me) with /32, or set allow_ssh_from_anywhere"
                    )
                continue
            # Without a public address a jump host of the same network may knock.
            inside = ("vnet_cidr", "subnet_cidr") if info.data.get("public_address", True) else ()
            for name in inside:
                own = info.data.get(name) or ()
                if any(one.overlaps(space) for space in own):
                    raise ValueError(
                        f"overlaps {name} ({_shown(own)}); give the range you connect from"
                    )
        return apart(value)

    @field_validator("ssh_public_key_path")
    @classmethod
    def _a_public_key(cls, value: Path, info: ValidationInfo) -> Path:
        if not info.data.get("ssh_public_key"):
            read_public_key(value)
        return value

    @field_validator("spot_max_price")
    @classmethod
    def _a_price(cls, value: float, info: ValidationInfo) -> float:
        if value != -1 and value <= 0:
            raise ValueError("must be -1 or more than 0 (USD per hour)")
        if value != -1 and info.data.get("spot") is False:
            raise ValueError("has no effect without spot; set spot to true")
        return value

    @field_validator("idle_minutes")
    @classmethod
    def _by_the_head(cls, value: int, info: ValidationInfo) -> int:
        if 0 < value < SHORTEST_IDLE_MINUTES:
            raise ValueError(f"must be 0 (never) or at least {SHORTEST_IDLE_MINUTES}")
        if value and not info.data.get("head_may_deallocate", True):
            raise ValueError("the head switches the VMs off: set head_may_deallocate to true")
        return value

    @field_validator("budget_email")
    @classmethod
    def _somebody(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("monthly_budget") and not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
            raise ValueError("must be an address: monthly_budget writes to it")
        return value

    @property
    def size(self) -> sizes.VmSize:
        """What the VM size's name says."""
        return sizes.parse(self.vm_size)

    @property
    def public_key(self) -> str:
        """The public key that is put on every node, one line."""
        return self.ssh_public_key or read_public_key(self.ssh_public_key_path)

    @property
    def private_key_path(self) -> str | None:
        """Path of the private key as it was given; None: fab looks, or an agent holds it."""
        given = self.ssh_private_key_path
        return None if given in ("auto", "agent") else given

    def as_strings(self) -> dict[str, str]:
        """The keys that differ from their defaults, as Pulumi keeps them; no private key's path."""
        dumped = self.model_dump(exclude={"ssh_private_key_path", "ssh_public_key_path"})
        dumped["ssh_public_key"] = self.public_key
        return {
            key: text
            for key, value in dumped.items()
            if (text := _as_pulumi_keeps(value)) != str(type(self).model_fields[key].default)
        }

    def private_ip(self, index: int) -> IPv4Address:
        """Static address of node `index`, counted from 0, the head; ranges fill in their order."""
        for one in self.subnet_cidr:
            free = one.num_addresses - RESERVED_ADDRESSES
            if index < free:
                return one[FIRST_HOST + index]
            index -= free
        raise IndexError(index)


def _as_pulumi_keeps(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _shown(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(ranges: Ranges) -> str:
    return ",".join(map(str, ranges))
