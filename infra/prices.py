"""What a cluster costs per hour: figures that have a public source and a date, and no others.

`prices.json` names the sources: public files that were made from Azure's retail price list, each of
a day. The stack's outputs use them alone, so that two runs say the same; `make plan ARGS=--live`
asks Azure's price service for the VMs' price of today.
"""

from __future__ import annotations

import datetime
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
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
    """One kind of thing that is paid for; `each_per_hour` in USD, None where it is unknown.

    `as_of` is the day of the figure (ISO 8601), `source` the address that it was read at.
    """

    what: str
    count: int
    each_per_hour: float | None
    while_paused: bool
    as_of: str
    source: str

    @property
    def per_hour(self) -> float | None:
        """USD per hour for all of them."""
        return None if self.each_per_hour is None else self.count * self.each_per_hour


@dataclass(frozen=True)
class Price:
    """What a cluster costs: list prices in USD, without tax, traffic, and disk transactions."""

    lines: tuple[Line, ...]

    @property
    def as_of(self) -> str:
        """The day of the VMs' price, which is nearly all of it."""
        return self.lines[0].as_of

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
            "per_hour": self.per_hour,
            "per_month": month,
            "paused_per_hour": self.paused_per_hour,
            "lines": [asdict(line) for line in self.lines],
        }


def _total(lines: tuple[Line, ...]) -> float | None:
    parts = [line.per_hour for line in lines]
    known = [part for part in parts if part is not None]
    return round(sum(known), 4) if len(known) == len(parts) else None


@cache
def table() -> dict[str, Any]:
    """The price table: USD per vCPU and hour by region and series; disks per month; its sources."""
    loaded: dict[str, Any] = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    return loaded


def of(config: ClusterConfig, vm_now: float | None = None) -> Price:
    """What a cluster costs.

    Spot VMs are counted at their ordinary price, the most they can cost: spot prices change by
    the hour.

    Args:
        config: of the cluster.
        vm_now: USD per hour for one VM, as Azure's price service says now (`live`); None: the
            table's.
    """
    machine = _vm_hour(config)
    if config.spot and machine is not None and config.spot_max_price > 0:
        machine = min(machine, config.spot_max_price)
    what = f"{config.vm_size}, {config.location}"
    lines = [_line("vcpu_hour", what, config.node_count, machine, while_paused=False)]
    if vm_now is not None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        lines = [Line(what, config.node_count, vm_now, False, today, RETAIL_ENDPOINT)]

    def disks(what: str, kind: str, size_gb: int, count: int) -> Line:
        each = _disk_hour(config.location, kind, size_gb)
        return _line("disk_month", f"{what} {kind}, {size_gb} GB", count, each)

    lines.append(disks("OS disk", config.os_disk_type, config.os_disk_size_gb, config.node_count))
    if config.data_disk_size_gb:
        lines.append(disks("data disk", config.data_disk_type, config.data_disk_size_gb, 1))
    addresses = int(config.public_address)
    if not config.existing_subnet_id:
        addresses += 1
        each = table()["nat_gateway_hour"]
        lines.append(_line("nat_gateway_hour", "NAT gateway (traffic is extra)", 1, each))
    if addresses:
        each = table()["public_ip_hour"]
        lines.append(_line("public_ip_hour", "public address, Standard", addresses, each))
    return Price(tuple(lines))


def _line(kind: str, what: str, count: int, each: float | None, while_paused: bool = True) -> Line:
    """A line with the table's source of its kind."""
    source = table()["sources"][kind]
    return Line(what, count, each, while_paused, source["as_of"], source["url"])


def _vm_hour(config: ClusterConfig) -> float | None:
    """USD per hour for one VM; Azure rounds to a tenth of a cent."""
    vcpu = table()["vcpu_hour"].get(config.location, {}).get(config.size.series)
    return None if vcpu is None else round(vcpu * config.size.vcpus, 3)


def _disk_hour(location: str, kind: str, size_gb: int) -> float | None:
    """USD per hour for a disk: Azure bills the next larger of its steps."""
    by_size = table()["disk_month"].get(location, {}).get(kind, {})
    steps = {int(gb): usd for gb, usd in by_size.items()}
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
