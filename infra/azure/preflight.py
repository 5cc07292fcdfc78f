"""Everything that would stop `pulumi up`, found before money is spent: `fab preflight`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from azure.core.exceptions import AzureError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra import prices
from infra.azure.arm import Azure, meaning, pulumi_json, sign_in
from infra.config import settings
from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.plan.plan import read_assignments
from infra.plan.recording import PROJECT

PROVIDERS = ("Microsoft.Compute", "Microsoft.Network")
NEEDED_RIGHTS = (
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
    "Microsoft.Network/virtualNetworks/write",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Compute/virtualMachines/deallocate/action",
)
ROLE_RIGHTS = (
    "Microsoft.Authorization/roleAssignments/write",
    "Microsoft.Authorization/roleAssignments/delete",
)
"""For `head_may_deallocate`; the role Contributor has neither."""


@dataclass(frozen=True)
class Check:
    """One line of the table: `fix` is what to do where it is not well."""

    what: str
    well: bool
    found: str
    fix: str = ""


def checks(azure: Azure, config: ClusterConfig) -> list[Check]:
    """Ask Azure everything that a plan depends on; a question that fails is a line too."""
    first = _asked("signed in", lambda: _signed_in(azure))
    if not all(check.well for check in first):
        return first
    questions: Mapping[str, Callable[[], Iterable[Check]]] = {
        "subscription": lambda: _subscription(azure),
        "rights": lambda: _rights(azure.permissions(), config),
        "providers": lambda: _providers(azure),
        "image": lambda: _image(azure, config),
        "size and quota": lambda: _size_and_quota(azure, config),
    }
    found = [check for what, ask in questions.items() for check in _asked(what, ask)]
    return [*first, *found, _price(config)]


def _asked(what: str, ask: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(ask())
    except (AzureError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [Check(what, False, "no answer", meaning(error))]


def _signed_in(azure: Azure) -> Iterable[Check]:
    azure.credential.get_token(azure.scope)
    yield Check("signed in", True, "yes")


def _subscription(azure: Azure) -> Iterable[Check]:
    one = azure.subscriptions().subscriptions.get(azure.subscription_id)
    yield Check(
        "subscription",
        one.state == "Enabled",
        f"{one.display_name} ({azure.subscription_id}), {one.state}",
        "it cannot create anything: see its state in the portal, or name another",
    )


def _rights(permissions: Iterable[Mapping[str, Any]], config: ClusterConfig) -> Iterable[Check]:
    granted = list(permissions)
    needed = (*NEEDED_RIGHTS, *(ROLE_RIGHTS if config.head_may_deallocate else ()))
    missing = [right for right in needed if not any(_grants(one, right) for one in granted)]
    only_roles = set(missing) <= set(ROLE_RIGHTS)
    yield Check(
        "rights",
        not missing,
        "all that are needed" if not missing else f"missing: {', '.join(missing)}",
        "ask for the role Owner or User Access Administrator, or: pulumi config set"
        " head_may_deallocate false"
        if only_roles
        else "ask for the role Contributor on the subscription",
    )


def _grants(permission: Mapping[str, Any], right: str) -> bool:
    """Whether one role grants a right: its actions less its notActions, * matching anything."""

    def among(patterns: Iterable[str]) -> bool:
        return any(fnmatch(right.lower(), pattern.lower()) for pattern in patterns)

    return among(permission.get("actions", ())) and not among(permission.get("notActions", ()))


def _providers(azure: Azure) -> Iterable[Check]:
    client = azure.resources()
    for name in PROVIDERS:
        state = client.providers.get(name).registration_state
        yield Check(name, state == "Registered", state, f"az provider register --namespace {name}")


def _image(azure: Azure, config: ClusterConfig) -> Iterable[Check]:
    publisher, offer, sku, version = config.image.split(":")
    images = azure.compute().virtual_machine_images
    try:
        image = images.get(config.location, publisher, offer, sku, version)
    except AzureError as error:
        if getattr(error, "status_code", None) != 404:
            raise
        newest = images.list(config.location, publisher, offer, sku, top=1, orderby="name desc")
        names = [one.name for one in newest]
        fix = f"pulumi config set image {publisher}:{offer}:{sku}:{names[0]}" if names else ""
        yield Check("image", False, f"{config.image} does not exist", fix or "choose another image")
        return
    yield Check(
        "image",
        image.hyper_v_generation == "V2",
        f"{config.image}, generation {image.hyper_v_generation}",
        "Trusted Launch needs a Gen2 image",
    )


def _size_and_quota(azure: Azure, config: ClusterConfig) -> Iterable[Check]:
    client = azure.compute()
    offered = client.resource_skus.list(filter=f"location eq '{config.location}'")
    sku = next(
        (
            one
            for one in offered
            if one.name == config.vm_size and one.resource_type == "virtualMachines"
        ),
        None,
    )
    if sku is None:
        fix = f"az vm list-skus --location {config.location} --size Standard_D --output table"
        yield Check("size", False, f"no {config.vm_size} in {config.location}", fix)
        return
    yield _offered(sku, config)
    yield _features(sku, config)
    vcpus = config.size.vcpus * config.node_count
    usage = {one.name.value: one for one in client.usage.list(config.location)}
    wanted = ["lowPriorityCores"] if config.spot else ["cores", sku.family]
    by_lower = {name.lower(): one for name, one in usage.items()}
    for name in wanted:
        quota = by_lower.get(name.lower())
        free = quota.limit - quota.current_value if quota else 0
        known = f"{free} of {quota.limit} free" if quota else "unknown to Azure"
        yield Check(
            f"quota {name}",
            free >= vcpus,
            f"{known}, {vcpus} needed",
            f"ask for {vcpus - free} more (portal: Quotas, Compute), or take fewer nodes or another"
            " region",
        )


def _offered(sku: Any, config: ClusterConfig) -> Check:
    zones = sorted({zone for info in sku.location_info or () for zone in info.zones or ()})
    closed = {
        zone
        for restriction in sku.restrictions or ()
        if restriction.type == "Zone" and restriction.restriction_info
        for zone in restriction.restriction_info.zones or ()
    }
    everywhere = any(restriction.type == "Location" for restriction in sku.restrictions or ())
    free = [zone for zone in zones if zone not in closed]
    well = not everywhere and (not config.zone or config.zone in free)
    found = f"{config.vm_size} in {config.location}, zones {', '.join(free) or 'none'}"
    if everywhere:
        return Check("size", False, f"{found}: closed to this subscription", "another region")
    return Check("size", well, found, f"pulumi config set zone {free[0] if free else chr(34) * 2}")


def _features(sku: Any, config: ClusterConfig) -> Check:
    has = {one.name: one.value for one in sku.capabilities or ()}
    lacking = []
    if has.get("AcceleratedNetworkingEnabled") != "True":
        lacking.append("accelerated networking")
    if "V2" not in has.get("HyperVGenerations", "").split(","):
        lacking.append("Gen2")
    if has.get("TrustedLaunchDisabled") == "True":
        lacking.append("Trusted Launch")
    if config.os_disk_type == "Premium_LRS" and has.get("PremiumIO") != "True":
        lacking.append("Premium disks")
    found = f"lacks {', '.join(lacking)}" if lacking else "Trusted Launch, Gen2, fast networking"
    return Check("size features", not lacking, found, "take another size, such as Standard_D16s_v5")


def _price(config: ClusterConfig) -> Check:
    price = prices.of(config)
    if price.per_hour is None:
        return Check("price", True, f"not in the table of {price.as_of}")
    return Check("price", True, f"{price.per_hour:.2f} USD an hour (list of {price.as_of})")


def show(found: Sequence[Check], console: Console | None = None) -> None:
    """Print the table."""
    table = Table("check", "", "found", "what to do", title="Before pulumi up")
    for check in found:
        fix = "" if check.well else check.fix
        words = (check.what, "ok" if check.well else "NO", check.found, fix)
        table.add_row(*(Text(word) for word in words))  # Azure's words have brackets in them
    (console or Console(width=120, highlight=False)).print(table)


def stack_values() -> dict[str, str]:
    """The config of the selected stack, by key."""
    every = pulumi_json("config")
    prefix = f"{PROJECT}:"
    return {
        key.removeprefix(prefix): str(one["value"])
        for key, one in every.items()
        if key.startswith(prefix)
    }


def main(argv: Sequence[str] | None = None, azure: Azure | None = None) -> int:
    """Check and print; 1 where something stands in the way, 2 where it cannot be asked."""
    parser = argparse.ArgumentParser(prog="python -m infra.azure.preflight", description=__doc__)
    parser.add_argument(
        *("--set", "-s"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of Pulumi.yaml, instead of reading the selected stack's config",
    )
    chosen = parser.parse_args(argv)
    try:
        values = read_assignments(chosen.set) if chosen.set else stack_values()
        config = settings.validate(values)
        found = checks(azure or sign_in(), config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(found)
    return 0 if all(check.well for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
