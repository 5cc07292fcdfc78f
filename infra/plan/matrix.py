"""What a change of each key does to a cluster that exists: `python -m infra.plan --matrix`.

The effects are those that `infra.plan.difference` finds when the real program runs before and after
the change; the tests run it for every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Effect = Mapping[str, list[str]]
NONE: Effect = MappingProxyType({})
VMS = ["machine"]
REPLACED: Effect = MappingProxyType({"replace": VMS})
REFUSED: Effect = MappingProxyType({"refused": VMS})
KEPT: Effect = MappingProxyType({"kept": VMS})
IN_GROUP = [
    "head-address", "interface", "machine", "nat", "nat-address", "placement", "resource-group",
    "security-group", "subnet", "virtual-network",
]  # fmt: skip
BUT_THE_GROUP = [one for one in IN_GROUP if one != "resource-group"]
NOT_MOVED: Effect = MappingProxyType({"refused": ["security-group"]})
SOMEBODYS = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-net/providers"
    "/Microsoft.Network/virtualNetworks/vnet-hub/subnets/snet-compute"
)
OTHER_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f example"
)


@dataclass(frozen=True)
class Row:
    """One change of one key.

    Attributes:
        key: of Pulumi.yaml.
        change: in words.
        after: what is set; `before` beside the defaults.
        plain: the effect, as `difference.summary` says it.
        replacing: the effect where `replace_nodes` is true.
        note: what a person should know besides.
    """

    key: str
    change: str
    after: Mapping[str, str]
    plain: Effect
    replacing: Effect
    note: str = ""
    before: Mapping[str, str] = field(default_factory=dict)


def _row(
    key: str, change: str, value: str, plain: Effect, replacing: Effect | None = None,
    note: str = "", **before: str,
) -> Row:  # fmt: skip
    with_it = plain if replacing is None else replacing
    return Row(key, change, {key: value}, plain, with_it, note, before)


GREW = {"create": ["interface", "machine"]}
SHRANK = {"delete": ["interface", "machine"]}
SSH = {"update": ["security-group"]}
RANGES = {"update": ["security-group", "subnet"]}
EVERYTHING = {"replace": IN_GROUP}
ALL_KEPT = {"kept": IN_GROUP}

ROWS: tuple[Row, ...] = (
    _row("name", "any, also by pulumi stack rename", "lab", ALL_KEPT, EVERYTHING,
         "what exists keeps its name; a node that is added gets the new one"),
    _row("location", "any", "westus2", {"kept": ["resource-group"]}, EVERYTHING,
         "the cluster stays in its region, and nodes that are added go there too"),
    _row("existing_resource_group", "from none", "rg-team", NOT_MOVED,
         {"delete": ["resource-group"], "replace": BUT_THE_GROUP}, "chosen when a cluster is made"),
    _row("existing_resource_group", "to another", "rg-other", NOT_MOVED,
         {"replace": BUT_THE_GROUP}, "chosen when a cluster is made",
         existing_resource_group="rg-team"),
    _row("node_count", "up", "4", GREW),
    _row("node_count", "down", "2", SHRANK, note="the last nodes go with their disks"),
    _row("vm_size", "same version, same kind", "Standard_D32s_v5", {"restart": VMS}, REPLACED,
         "a training dies with the restart"),
    _row("vm_size", "to or from v6, or a local disk", "Standard_D16s_v6", REFUSED, REPLACED),
    _row("zone", "any", "2", REFUSED,
         {"replace": ["machine", "placement"]}, "addresses and NAT gateway are in no zone"),
    _row("admin_username", "any", "ana", {"refused": VMS}, REPLACED),
    _row("image", "any", "Canonical:ubuntu-24_04-lts:server:24.4.1", KEPT, REPLACED),
    _row("os_disk_size_gb", "up or down", "256", REFUSED, REPLACED),
    _row("os_disk_type", "any", "Premium_LRS", REFUSED, REPLACED),
    _row("data_disk_size_gb", "from none", "64", {"create": ["data-disk"], "update": VMS},
         note="mounted at the head's next boot, or by sudo systemctl restart mount-data; then fab"
              " bootstrap"),
    _row("data_disk_size_gb", "up", "128", {"update": ["data-disk"]}, data_disk_size_gb="64",
         note="the file system follows at the next boot"),
    _row("data_disk_size_gb", "down", "32", {"refused": ["data-disk"]}, data_disk_size_gb="64"),
    _row("data_disk_size_gb", "to none", "0", {"refused": ["data-disk"]}, data_disk_size_gb="64",
         note="the disk is protected: pulumi state unprotect first"),
    _row("data_disk_type", "any", "Premium_LRS", {"refused": ["data-disk"]},
         data_disk_size_gb="64"),
    _row("vnet_cidr", "a range added", "10.0.0.0/16,10.1.0.0/16", {"update": ["virtual-network"]}),
    _row("vnet_cidr", "any other", "10.0.0.0/15", {"refused": ["virtual-network"]},
         note="pulumi destroy and pulumi up"),
    _row("subnet_cidr", "a range added", "10.0.0.0/24,10.0.1.0/24", RANGES),
    _row("subnet_cidr", "any other", "10.0.0.0/23", {"refused": ["subnet"]},
         note="pulumi destroy and pulumi up"),
    _row("existing_subnet_id", "any", SOMEBODYS, {"refused": ["interface"]},
         note="pulumi destroy and pulumi up"),
    _row("public_address", "on to off", "false",
         {"delete": ["head-address"], "update": ["interface"]}, note="the address is lost"),
    _row("allow_ssh_from_anywhere", "any", "true", NONE),
    _row("allowed_ssh_cidr", "any", "198.18.0.0/24,203.0.113.7/32", SSH),
    _row("ssh_public_key", "any", OTHER_KEY, KEPT, REPLACED),
    _row("ssh_public_key_path", "to a file with another key", "{other_key}", KEPT, REPLACED),
    _row("ssh_private_key_path", "any", "agent", NONE, note="only fab uses it"),
    _row("proximity_placement_group", "any", "false",
         {"refused": VMS}, {"delete": ["placement"], "replace": VMS}),
    _row("spot", "any", "true", REFUSED, REPLACED),
    _row("spot_max_price", "any", "0.5", REFUSED, REPLACED, spot="true"),
    _row("spot_eviction_policy", "any", "Delete", REFUSED, REPLACED, spot="true"),
    _row("tags", "any", "owner=ana",
         {"update": [one for one in IN_GROUP if one != "subnet"]}),
    _row("head_may_deallocate", "on or off", "true",
         {"create": ["power-role"], "update": VMS}, note="of the VMs, the head's alone"),
    _row("idle_minutes", "any", "60", NONE, note="the head knows it after the next fab bootstrap",
         head_may_deallocate="true"),
    _row("deallocate_at", "on", "0130", {"create": ["nightly"]}),
    _row("monthly_budget", "on", "500", {"create": ["budget"]}, budget_email="ana@example.com"),
    _row("budget_email", "any", "eva@example.com", {"update": ["budget"]},
         monthly_budget="500", budget_email="ana@example.com"),
    _row("replace_nodes", "on or off", "true", NONE,
         note="lets the changes beside it replace; set it back afterwards"),
)  # fmt: skip

WORDS = {
    "create": "created: {}",
    "delete": "deleted: {}",
    "kept": "unchanged: {}",
    "update": "in place: {}",
    "restart": "in place, with a restart: {}",
    "replace": "replaced: {}",
    "refused": "refused: {}",
}
LOSES_DISKS = ("delete", "replace")


def words(effect: Effect) -> str:
    """An effect for a table's cell."""
    if not effect:
        return "nothing"
    said = []
    for action, stems in effect.items():
        which = "all" if stems == IN_GROUP else ", ".join(stems)
        lost = " (OS disks are lost)" if action in LOSES_DISKS and "machine" in stems else ""
        said.append(WORDS[action].format(which) + lost)
    return "; ".join(said)


def markdown() -> str:
    """The table of docs/azure.md."""
    lines = [
        "| key | change | on a cluster that exists | with `replace_nodes` | |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        with_it = "the same" if row.replacing == row.plain else words(row.replacing)
        lines.append(
            f"| `{row.key}` | {row.change} | {words(row.plain)} | {with_it} | {row.note} |"
        )
    return "\n".join(lines) + "\n"
