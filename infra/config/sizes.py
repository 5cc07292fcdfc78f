"""What a VM size's name says: its family, vCPUs, maker of the CPU, and whether Premium disks fit.

The naming scheme is Azure's: D, vCPUs, then letters (a: AMD, p: Arm, l: less memory, d: local
disk, s: Premium storage), then the version.
https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

SMALLEST_VCPUS = 4
VCPUS = (2, 4, 8, 16, 32, 48, 64, 96)
MOST_VCPUS_V6 = (128, 192)

_NAME = re.compile(
    r"Standard_(?P<letter>[A-Z]+)(?P<vcpus>\d+)(?P<features>[a-z]*)_v(?P<version>\d+)"
)
_FAMILIES = {5: ("", "s", "d", "ds"), 6: ("s", "ds")}
"""Letters of the general-purpose Intel sizes by version; from v6 on all have Premium storage."""


@dataclass(frozen=True)
class VmSize:
    """One size.

    Attributes:
        name: as Azure spells it.
        vcpus: hyper-threads; two of them are one core.
        series: for example Dsv5, the row of a price table.
        premium_disks: whether Premium SSDs can be attached.
    """

    name: str
    vcpus: int
    series: str
    premium_disks: bool


def known_names() -> list[str]:
    """Every size that the cluster accepts and that existed when this was written."""
    return [
        f"Standard_D{vcpus}{letters}_v{version}"
        for version, families in _FAMILIES.items()
        for letters in families
        for vcpus in (*VCPUS, *(MOST_VCPUS_V6 if version == 6 else ()))
        if vcpus >= SMALLEST_VCPUS
    ]


def parse(name: str) -> VmSize:
    """The size behind a name.

    Raises:
        ValueError: not a general-purpose Intel size of generation 5 or newer, or too small; the
            message says which, and what to take.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"is not the name of a Dv5-family size{_nearest(name)}")
    letter, features = match["letter"], match["features"]
    vcpus, version = int(match["vcpus"]), int(match["version"])
    if "a" in features:
        raise ValueError(
            "is an AMD size: IPEX and oneCCL are for Intel CPUs"
            f"{_nearest(name.replace(features, features.replace('a', '')))}"
        )
    if "p" in features:
        raise ValueError(
            "is an Arm size: IPEX and oneCCL are for Intel CPUs; take Standard_D16s_v5"
        )
    if letter != "D" or version < 5 or features not in _FAMILIES[min(version, 6)]:
        raise ValueError(
            "is not one of Dv5, Dsv5, Ddv5, Ddsv5, Dsv6, Ddsv6 or a newer version of these"
            f"{_nearest(name)}"
        )
    if vcpus < SMALLEST_VCPUS:
        raise ValueError(
            f"has {vcpus} vCPUs; training needs at least {SMALLEST_VCPUS}: take"
            f" Standard_D4{features}_v{version} or larger"
        )
    if version in _FAMILIES and name not in known_names():
        raise ValueError(f"has a number of vCPUs that this series does not offer{_nearest(name)}")
    return VmSize(
        name=name, vcpus=vcpus, series=f"D{features}v{version}", premium_disks="s" in features
    )


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, known_names(), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; take for example Standard_D16s_v5"
