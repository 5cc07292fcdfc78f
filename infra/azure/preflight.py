"""Everything that would stop `pulumi up`, found before money is spent: `fab preflight`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra import prices
from infra.azure.arm import Azure, meaning, pulumi_json, sign_in
from infra.config import settings
from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.inventory import Inventory
from infra.plan import difference, living, plan
from infra.plan.plan import read_assignments
from infra.plan.recording import PROJECT

PROVIDERS = ("Microsoft.Compute", "Microsoft.Network")
GROUP_RIGHTS = (
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
)
"""For a resource group of the cluster's own."""
NEEDED_RIGHTS = (
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


def checks(azure: Azure, config: ClusterConfig, cluster: Inventory | None = None) -> list[Check]:
    """Ask Azure everything that a plan depends on; a question that fails is a line too.

    Args:
        azure: the subscription.
        config: what `pulumi up` would be given.
        cluster: the one that exists already, as the stack's outputs tell it.
    """
    first = _asked("signed in", lambda: _signed_in(azure))
    if not all(check.well for check in first):
        return first
    questions: Mapping[str, Callable[[], Iterable[Check]]] = {
        "subscription": lambda: _subscription(azure),
        "resource group": lambda: _resource_group(azure, config),
        "rights": lambda: _rights(azure.permissions(config.existing_resource_group), config),
        "providers": lambda: _providers(azure, config),
        "image": lambda: _image(azure, config),
        "size and quota": lambda: _size_and_quota(azure, config, cluster),
    }
    found = [check for what, ask in questions.items() for check in _asked(what, ask)]
    return [*first, *found, *(_changes(config, cluster) if cluster else ()), _price(config)]


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
        "nothing can be created in it: see its state in the portal, or use another",
    )


def _resource_group(azure: Azure, config: ClusterConfig) -> Iterable[Check]:
    name = config.existing_resource_group
    if name:
        there = azure.resources().resource_groups.check_existence(name)
        fix = f"az group create --name {name} --location {config.location}, or another name"
        found = f"{name} {'exists' if there else 'does not exist'}"
        yield Check("resource group", there, found, fix)


def _rights(permissions: Iterable[Mapping[str, Any]], config: ClusterConfig) -> Iterable[Check]:
    granted = list(permissions)
    group = config.existing_resource_group
    needed = (
        *(() if group else GROUP_RIGHTS),
        *NEEDED_RIGHTS,
        *(ROLE_RIGHTS if config.head_may_deallocate else ()),
    )
    missing = [right for right in needed if not any(_grants(one, right) for one in granted)]
    only_roles = set(missing) <= set(ROLE_RIGHTS)
    yield Check(
        "rights",
        not missing,
        "all that are needed" if not missing else f"missing: {', '.join(missing)}",
        "ask for the role Owner or User Access Administrator, or: pulumi config set"
        " head_may_deallocate false"
        if only_roles
        else f"ask for the role Contributor on {group or 'the subscription'}",
    )


def _grants(permission: Mapping[str, Any], right: str) -> bool:
    """Whether one role grants a right: its actions less its notActions, * matching anything."""

    def among(patterns: Iterable[str]) -> bool:
        return any(fnmatch(right.lower(), pattern.lower()) for pattern in patterns)

    return among(permission.get("actions", ())) and not among(permission.get("notActions", ()))


def _providers(azure: Azure, config: ClusterConfig) -> Iterable[Check]:
    client = azure.resources()
    nightly = ("Microsoft.DevTestLab",) if config.deallocate_at else ()
    budget = ("Microsoft.Consumption",) if config.monthly_budget else ()
    for name in (*PROVIDERS, *nightly, *budget):
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


def _size_and_quota(
    azure: Azure, config: ClusterConfig, cluster: Inventory | None
) -> Iterable[Check]:
    client = azure.compute()
    offered = list(client.resource_skus.list(filter=f"location eq '{config.location}'"))
    sku = next(
        (
            one
            for one in offered
            if one.name == config.vm_size and one.resource_type == "virtualMachines"
        ),
        None,
    )
    if sku is None:
        found = f"no {config.vm_size} in {config.location}"
        yield Check("size", False, found, _elsewhere(client, config))
        return
    yield _offered(client, sku, config, cluster)
    yield _features(sku, config)
    vcpus = config.size.vcpus * config.node_count
    usage = {one.name.value: one for one in client.usage.list(config.location)}
    wanted = ["lowPriorityCores"] if config.spot else ["cores", sku.family]
    own = _own_cores(client, cluster, config, sku.family, list(offered)) if cluster else {}
    by_lower = {name.lower(): one for name, one in usage.items()}
    for name in wanted:
        quota = by_lower.get(name.lower())
        free = quota.limit - quota.current_value if quota else 0
        mine = own.get(name, 0)
        known = f"{free} of {quota.limit} free" if quota else "Azure reports no such quota"
        held = f" (the cluster already uses {mine} of them)" if mine else ""
        yield Check(
            f"quota {name}",
            free + mine >= vcpus,
            f"{known}, {vcpus} needed{held}",
            f"ask for {vcpus - free - mine} more (portal: Quotas, Compute), or take fewer nodes or"
            " another region",
        )


def _own_cores(
    client: Any, cluster: Inventory, config: ClusterConfig, family: str, offered: Sequence[Any]
) -> dict[str, int]:
    """vCPUs that the cluster's own VMs take of each quota: those that are not deallocated."""
    if cluster.location != config.location:
        return {}
    families = {one.name: one.family for one in offered if one.resource_type == "virtualMachines"}
    taken: dict[str, int] = {}
    for node in cluster.nodes:
        try:
            machine = client.virtual_machines.get(
                cluster.resource_group, node.name, expand="instanceView"
            )
        except AzureError as error:
            if getattr(error, "status_code", None) == 404:
                continue
            raise
        statuses = (machine.instance_view.statuses if machine.instance_view else None) or ()
        if any(one.code == "PowerState/deallocated" for one in statuses):
            continue
        spot = machine.priority == "Spot"
        quotas = ("lowPriorityCores",) if spot else ("cores", families.get(node.size, family))
        for name in quotas:
            taken[name] = taken.get(name, 0) + node.vcpus
    return taken


def _changes(config: ClusterConfig, cluster: Inventory) -> Iterable[Check]:
    """What `pulumi up` would do to the cluster that exists."""
    if cluster.config is None:
        return
    outputs = cluster.model_dump(mode="json")
    known = living.of_outputs(outputs, "dev")
    made = plan.make({"name": known.name, **config.as_strings()}, living=known.resources)
    steps = difference.between(known.resources, made)
    refused = [step.says for step in steps if step.action == "refused"]
    done = difference.summary(steps)
    found = "; ".join(f"{action}: {', '.join(names)}" for action, names in done.items())
    yield Check("changes", not refused, found or "none", "; ".join(dict.fromkeys(refused)).strip())
    for text in difference.warnings(steps):
        yield Check("note", True, text)


def _offered(client: Any, sku: Any, config: ClusterConfig, cluster: Inventory | None) -> Check:
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
        fix = _elsewhere(client, config)
        return Check("size", False, f"{found}: closed to this subscription", fix)
    if cluster is not None and cluster.location == config.location:
        fix = "another size: a cluster that exists stays in its zone until replace_nodes"
        return Check("size", well, found, fix)
    return Check("size", well, found, f"pulumi config set zone {free[0] if free else chr(34) * 2}")


def _elsewhere(client: Any, config: ClusterConfig) -> str:
    """The regions where this subscription gets the size."""
    regions = sorted(
        {
            place.lower()
            for one in client.resource_skus.list()
            if one.name == config.vm_size and one.resource_type == "virtualMachines"
            if not any(restriction.type == "Location" for restriction in one.restrictions or ())
            for place in one.locations or ()
        }
    )
    if not regions:
        return f"another size: az vm list-skus --location {config.location} --output table"
    return f"pulumi config set location, to one of: {', '.join(regions)}"


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
    return Check("price", True, f"{price.per_hour:.2f} USD per hour (list of {price.as_of})")


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
    prefix = f"{PROJECT}:"
    ours = {
        key.removeprefix(prefix): one
        for key, one in pulumi_json("config").items()
        if key.startswith(prefix)
    }
    secret = [key for key, one in ours.items() if "value" not in one]
    if secret:
        raise UserError(
            f"{', '.join(secret)}: is stored as a secret, and this project has no secret keys. Set"
            " it again with: pulumi config set --plaintext KEY VALUE"
        )
    return {key: str(one["value"]) for key, one in ours.items()}


def stack_cluster() -> Inventory | None:
    """The cluster that the selected stack has already, if any."""
    outputs = pulumi_json("stack", "output")
    return Inventory.model_validate(outputs) if outputs.get("nodes") else None


def account(cluster: Inventory | None, selected: bool) -> Azure:
    """The subscription that `pulumi up` will use.

    That of the cluster that exists; else the one that the stack's config or the environment names;
    else that of az login, which Pulumi's provider takes too.
    """
    if cluster is not None:
        return Azure(DefaultAzureCredential(), cluster.subscription_id)
    kept = pulumi_json("config").get("azure-native:subscriptionId", {}) if selected else {}
    return sign_in(kept.get("value"))


def main(argv: Sequence[str] | None = None, azure: Azure | None = None) -> int:
    """Check and print; 1 where pulumi up would fail, 2 where the checks cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m infra.azure.preflight", description=__doc__)
    parser.add_argument(
        *("--set", "-s"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of Pulumi.yaml; the selected stack's config is then not read",
    )
    chosen = parser.parse_args(argv)
    try:
        values = read_assignments(chosen.set) if chosen.set else stack_values()
        config = settings.validate(values)
        cluster = None if chosen.set else stack_cluster()
        found = checks(azure or account(cluster, selected=not chosen.set), config, cluster)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(found)
    return 0 if all(check.well for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
