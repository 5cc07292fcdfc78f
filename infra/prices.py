"""What a cluster costs per hour, from a dated table in this package or live from Azure.

The stack's outputs use the table alone, so that two runs say the same; `infra.plan` and
`infra.azure.preflight` also ask Azure's retail price service.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from infra.config.config import ClusterConfig

TABLE_FILE = Path(__file__).with_name("prices.json")
HOURS_PER_MONTH = 730
"""Azure's own convention: 365 * 24 / 12."""
RETAIL_ENDPOINT = "https://prices.azure.com"
LIVE_TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Line:
    """One kind of thing that is paid for; `each_per_hour` in USD, None where it is unknown."""

    what: str
    count: int
    each_per_hour: float | None
    while_paused: bool

    @property
    def per_hour(self) -> float | None:
        """USD per hour for all of them."""
        return None if self.each_per_hour is None else self.count * self.each_per_hour


@dataclass(frozen=True)
class Price:
    """What a cluster costs: list prices in USD, without tax, traffic, and disk transactions."""

    lines: tuple[Line, ...]
    as_of: str
    source: str
    spot: bool

    @property
    def per_hour(self) -> float | None:
        """USD per hour; None where a part is unknown."""
        return _total(self.lines)

    @property
    def paused_per_hour(self) -> float | None:
        """USD per hour with every VM deallocated: disks, addresses and the NAT gateway."""
        return _total(tuple(line for line in self.lines if line.while_paused))

    def outputs(self) -> dict[str, Any]:
        """The part of the stack's outputs that is about money."""
        return {"price_per_hour_usd": self.per_hour, "price_as_of": self.as_of}

    def as_json(self) -> dict[str, Any]:
        """All of it, for `infra.plan --json`."""
        month = None if self.per_hour is None else round(self.per_hour * HOURS_PER_MONTH, 2)
        return {
            "currency": "USD",
            "as_of": self.as_of,
            "source": self.source,
            "per_hour": self.per_hour,
            "per_month": month,
            "paused_per_hour": self.paused_per_hour,
            "lines": [
                {
                    "what": line.what,
                    "count": line.count,
                    "each_per_hour": line.each_per_hour,
                    "while_paused": line.while_paused,
                }
                for line in self.lines
            ],
        }


def _total(lines: tuple[Line, ...]) -> float | None:
    parts = [line.per_hour for line in lines]
    known = [part for part in parts if part is not None]
    return round(sum(known), 4) if len(known) == len(parts) else None


@cache
def table() -> dict[str, Any]:
    """The dated price table: USD, per vCPU and hour by region and series; disks by month."""
    loaded: dict[str, Any] = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    return loaded


def of(config: ClusterConfig) -> Price:
    """What a cluster costs by the dated table.

    Spot VMs are counted at their ordinary price, the most they can cost: spot prices change by
    the hour.
    """
    known = table()
    vcpu = known["vcpu_hour"].get(config.location, {}).get(config.size.series)
    machine = None if vcpu is None else round(vcpu * config.size.vcpus, 4)
    if config.spot and machine is not None and config.spot_max_price > 0:
        machine = min(machine, config.spot_max_price)
    disk = _disk_hour(config.os_disk_type, config.os_disk_size_gb)
    data = (
        Line(
            f"data disk {config.data_disk_type}, {config.data_disk_size_gb} GB",
            1,
            _disk_hour(config.data_disk_type, config.data_disk_size_gb),
            True,
        ),
    )
    nat = Line("NAT gateway (traffic is extra)", 1, known["nat_gateway_hour"], True)
    addresses = int(config.public_address) + int(not config.existing_subnet_id)
    address = known["public_ip_hour"]
    lines = (
        Line(f"{config.vm_size}, {config.location}", config.node_count, machine, False),
        Line(
            f"OS disk {config.os_disk_type}, {config.os_disk_size_gb} GB",
            config.node_count,
            disk,
            True,
        ),
        *(data if config.data_disk_size_gb else ()),
        *((nat,) if not config.existing_subnet_id else ()),
        *((Line("public address, Standard", addresses, address, True),) if addresses else ()),
    )
    return Price(lines, known["as_of"], known["source"], config.spot)


def _disk_hour(kind: str, size_gb: int) -> float | None:
    """USD per hour for a disk: Azure bills the next larger of its steps."""
    steps = {int(gb): usd for gb, usd in table()["disk_month"][kind].items()}
    fitting = [gb for gb in sorted(steps) if gb >= size_gb]
    return round(steps[fitting[0]] / HOURS_PER_MONTH, 6) if fitting else None


def live(config: ClusterConfig, endpoint: str = RETAIL_ENDPOINT) -> float | None:
    """USD per hour for one VM from Azure's retail price service; None where it does not answer."""
    condition = (
        f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption'"
        f" and armRegionName eq '{config.location}' and armSkuName eq '{config.vm_size}'"
    )
    address = f"{endpoint}/api/retail/prices?" + urllib.parse.urlencode({"$filter": condition})
    try:
        with urllib.request.urlopen(address, timeout=LIVE_TIMEOUT_SECONDS) as answer:
            items = json.load(answer)["Items"]
        found = [
            float(item["retailPrice"])
            for item in items
            if "Windows" not in item["productName"]
            and "Low Priority" not in item["meterName"]
            and ("Spot" in item["meterName"]) == config.spot
        ]
    except (OSError, ValueError, KeyError, TypeError):
        # A price is a courtesy: whatever is wrong with the service, the table still answers.
        return None
    return min(found, default=None)
