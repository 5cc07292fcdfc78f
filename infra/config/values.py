"""What a value of the config may be by itself; what depends on other keys is in `config`.

Each function returns the value, or raises ValueError with the rule and the fix.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from infra.config import admin_names, sizes
from infra.config.keys import check_public_key
from infra.inventory import GROUP_NAME

LONGEST_NAME = 44
"""The tightest type is a Linux VM, whose name is also its host name: vm-<name>-99 in 64."""
SUBNET_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network"
    r"/virtualNetworks/[^/]+/subnets/[^/]+",
    re.IGNORECASE,
)
DiskType = Literal["Standard_LRS", "StandardSSD_LRS", "Premium_LRS"]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Ranges = Annotated[tuple[IPv4Network, ...], BeforeValidator(_split)]
"""One or several address ranges; in a stack's config with commas between them."""


def apart(ranges: Ranges) -> Ranges:
    """The same ranges, none of which overlaps another."""
    for place, one in enumerate(ranges):
        if any(one.overlaps(other) for other in ranges[:place]):
            raise ValueError("names addresses twice: its ranges overlap")
    return ranges


def cluster_name(value: str) -> str:
    """Part of the names of resources."""
    if value and not re.fullmatch(rf"[a-z0-9]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", value):
        raise ValueError(f"must be 1 to {LONGEST_NAME} of a-z, 0-9 and -, with no - at its ends")
    return value


def region(value: str) -> str:
    """A region's short name."""
    if not re.fullmatch(r"[a-z][a-z0-9]{2,29}", value):
        plain = re.sub(r"[^a-z0-9]", "", value.lower())
        raise ValueError(f"must be a region's short name; try {plain or 'eastus'}")
    return value


def group_name(value: str) -> str:
    """A resource group's name, or none."""
    if value and (not re.fullmatch(GROUP_NAME, value) or value.endswith(".")):
        raise ValueError(
            "must be a resource group's name, as 'az group list' shows it: letters, digits and"
            " _().-, at most 90"
        )
    return value


def size_name(value: str) -> str:
    """A VM size that the cluster takes."""
    return sizes.parse(value).name


def image(value: str) -> str:
    """An image of one version, for Gen2."""
    parts = value.split(":")
    if len(parts) != 4 or not all(re.fullmatch(r"[\w.-]+", part, re.ASCII) for part in parts):
        raise ValueError(
            "must be publisher:offer:sku:version, as 'az vm image list --all' prints it"
        )
    _, offer, sku, version = parts
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError("must name one version (three numbers), not 'latest': nodes may differ")
    if "arm64" in sku:
        raise ValueError("is an Arm image; the nodes are x86-64")
    if "gen1" in sku or (offer.startswith("0001-com-ubuntu") and "gen2" not in sku):
        raise ValueError("is a Gen1 image; Trusted Launch needs Gen2 (a sku with gen2)")
    return value


def private_ranges(value: Ranges) -> Ranges:
    """Ranges that nobody has on the internet."""
    private = [IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
    for one in value:
        if not any(one.subnet_of(space) for space in private) or one.prefixlen > 29:
            raise ValueError("must be a private range of /29 or larger, such as 10.0.0.0/16")
    return apart(value)


def subnet_id(value: str) -> str:
    """A subnet's ID in ARM, or none."""
    if value and not SUBNET_ID.fullmatch(value):
        raise ValueError(
            "must be /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Network"
            "/virtualNetworks/NAME/subnets/NAME, as 'az network vnet subnet show --query id'"
            " prints it"
        )
    return value


def public_key(value: str) -> str:
    """One public key, or none."""
    return check_public_key(value) if value else value


def key_path(value: str) -> str:
    """Where a private key lies, 'agent' or 'auto'; never the key."""
    if "PRIVATE KEY" in value or "\n" in value:
        raise ValueError("must be the path of a key, never the key itself")
    if value not in ("auto", "agent") and not Path(value).expanduser().is_file():
        raise ValueError("no such file; 'agent' is for keys without one")
    return value


def time_of_day(value: str) -> str:
    """Hours and minutes, or none."""
    if value and not re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", value):
        raise ValueError("must be four digits of UTC, such as 0130")
    return value


def pairs(value: object) -> object:
    """name=value,name=value as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if any(not separator or not name.strip() for name, separator, _ in pairs):
        raise ValueError("must be name=value,name=value")
    return {name.strip(): text.strip() for name, _, text in pairs}


def tags(value: dict[str, str]) -> dict[str, str]:
    """Tags as Azure has them."""
    # Limits of Azure Resource Manager; three more tags are ours.
    for name, text in value.items():
        if re.search(r"[<>%&\\?/]", name) or len(name) > 512 or len(text) > 256:
            raise ValueError(
                f"tag {name[:40]!r}: names have at most 512 characters and none of <>%&\\?/,"
                " values at most 256"
            )
        if name.lower().startswith(("azure", "microsoft", "windows")):
            raise ValueError(f"tag {name!r}: Azure reserves names that begin like this")
    if len({name.lower() for name in value} | {"project", "stack", "managed-by"}) > 50:
        raise ValueError("has too many tags: Azure takes 50, three of them are set already")
    if len({name.lower() for name in value}) < len(value):
        raise ValueError("names one tag twice (Azure does not tell upper from lower case)")
    return value


ClusterName = Annotated[str, AfterValidator(cluster_name)]
Region = Annotated[str, AfterValidator(region)]
GroupName = Annotated[str, AfterValidator(group_name)]
SizeName = Annotated[str, AfterValidator(size_name)]
Image = Annotated[str, AfterValidator(image)]
PrivateRanges = Annotated[Ranges, AfterValidator(private_ranges)]
SubnetId = Annotated[str, AfterValidator(subnet_id)]
PublicKey = Annotated[str, AfterValidator(public_key)]
KeyPath = Annotated[str, AfterValidator(key_path)]
TimeOfDay = Annotated[str, AfterValidator(time_of_day)]
Login = Annotated[str, AfterValidator(admin_names.check)]
Tags = Annotated[dict[str, str], BeforeValidator(pairs), AfterValidator(tags)]
