"""What a change does to a resource that exists: the one table behind program, plan and docs.

The provider replaces a resource where a name, a group or (of some) the location changes, and sends
all else as an update; its list of what forces a replacement has no compute entry. What Azure then
refuses is known from its reference and from reports, so it is decided here instead:

- kept: the old value stays until `replace_nodes` (Pulumi's ignoreChanges); a new node has the new;
- refused: an error by name in the preview, before anything is touched (a hook of Pulumi's);
- fixed: the same, with `replace_nodes` too;
- restarts: Azure restarts the VM for it;
- grows: a number may get larger, a list longer at its end, and nothing else.

With `replace_nodes`, what is kept or refused of a VM replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from infra.config import sizes
from infra.rules.kinds import (
    BUDGET,
    DISK,
    EXISTING_GROUP,
    NAME_KEYS,
    NIC,
    NSG,
    ROLE,
    SUBNET,
    VM,
    VNET,
)

Policy = Literal["kept", "refused", "restarts", "grows", "fixed"]


@dataclass(frozen=True)
class Property:
    """A property of a resource that Azure does not simply update.

    Attributes:
        path: its place in the inputs.
        policy: what is done about a change.
        why: what Azure says to it, for the message.
        default: what an absent value means.
    """

    path: str
    policy: Policy
    why: str = ""
    default: str | None = None


OF_VM = (
    Property("osProfile.computerName", "kept"),
    Property("storageProfile.osDisk.name", "kept"),
    Property("storageProfile.imageReference", "kept"),
    Property("osProfile.customData", "kept"),
    Property("osProfile.linuxConfiguration.ssh", "kept"),
    Property("osProfile.adminUsername", "refused", "the account is set when the VM is created"),
    Property(
        "storageProfile.osDisk.managedDisk.storageAccountType",
        "refused",
        "Azure cannot change the type of an attached OS disk",
    ),
    Property(
        "storageProfile.osDisk.diskSizeGB",
        "refused",
        "Azure cannot resize the OS disk of a running VM",
    ),
    Property("zones", "refused", "Azure cannot move a VM between zones"),
    Property("priority", "refused", "a VM is created as Spot or not", "Regular"),
    Property("evictionPolicy", "refused", "the eviction policy is set when the VM is created"),
    Property("billingProfile", "refused", "Azure changes it on a deallocated VM only"),
    Property("proximityPlacementGroup", "refused", "Azure changes it on a deallocated VM only"),
    Property(
        "hardwareProfile.vmSize",
        "restarts",
        "Azure cannot resize a VM between v5 and v6 (SCSI, NVMe), or between sizes with and"
        " without a local disk",
    ),
)
OF_SUBNET = Property(
    "addressPrefixes",
    "grows",
    "Azure cannot remove a range from a subnet in use; add one (A,B), or"
    " destroy the cluster and create it again",
)
OF_VNET = Property(
    "addressSpace.addressPrefixes",
    "grows",
    "Azure cannot remove a range from a network in use; add one (A,B), or"
    " destroy the cluster and create it again",
)


OF_DISK = (
    Property("diskSizeGB", "grows", "a disk shrinks only with its data"),
    Property("sku.name", "fixed", "Azure changes it while the disk is detached"),
    Property("zones", "fixed", "a disk and its data stay in their zone"),
)


OF_NSG = (
    Property(
        f"tags.{EXISTING_GROUP}",
        "fixed",
        "existing_resource_group is chosen when a cluster is made (pulumi destroy, then pulumi up)",
    ),
)


OF_NIC = (
    Property("ipConfigurations[0].subnet.id", "fixed", "an attached interface stays in its subnet"),
)


def of(kind: str) -> tuple[Property, ...]:
    """What is decided for resources of a type, names and places first."""
    if kind not in NAME_KEYS or kind == ROLE:
        # A new head has a new identity, and the role goes to that one, under a name of its own.
        return ()
    if kind == BUDGET:
        return (Property("timePeriod", "kept"),)
    place = ("virtualNetworkName",) if kind == SUBNET else ("location",)
    keys = dict.fromkeys((NAME_KEYS[kind], "resourceGroupName", *place))
    own = {VM: OF_VM, DISK: OF_DISK, NIC: OF_NIC, SUBNET: (OF_SUBNET,), VNET: (OF_VNET,)}.get(
        kind, OF_NSG if kind == NSG else ()
    )
    return (*(Property(key, "kept") for key in keys), *own)


def ignored(kind: str, replace_nodes: bool) -> list[str]:
    """Paths whose old value stays: Pulumi's ignoreChanges."""
    if replace_nodes and kind != BUDGET:
        return []
    return [one.path for one in of(kind) if one.policy == "kept"]


def replacing(kind: str, replace_nodes: bool) -> list[str]:
    """Paths whose change makes a new resource, beside the provider's own: replaceOnChanges."""
    if kind != VM or not replace_nodes:
        return []
    return [one.path for one in OF_VM]


def refusals(kind: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Why Azure would refuse an update from one set of inputs to another; none: it would not."""
    for one in of(kind):
        before = at(old, one.path) or one.default
        after = at(new, one.path) or one.default
        if one.policy == "kept" or _same(before, after):
            continue
        if one.policy == "grows":
            if not _grown(before, after):
                yield f"{name}: {one.path} cannot become {_text(after)}: {one.why}. Set it back"
        elif one.policy == "fixed":
            yield f"{name}: {one.path} cannot become {_text(after)}: {one.why}. Set it back"
        elif one.policy == "refused" or not resizable(str(before), str(after)):
            yield (
                f"{name}: {one.path} cannot become {_text(after)}: {one.why}. Set it back, or let"
                " the VMs and their disks be replaced: pulumi config set replace_nodes true"
            )


def resizable(before: str, after: str) -> bool:
    """Whether Azure resizes a VM from one size to another: same disk controller, same local disk.

    https://learn.microsoft.com/azure/virtual-machines/sizes/resize-vm
    """
    old, new = sizes.parse(before).series, sizes.parse(after).series
    return ("d" in old, old[-1] == "5") == ("d" in new, new[-1] == "5")


def at(inputs: Mapping[str, Any], path: str) -> Any:
    """The value at a path, or None."""
    value: Any = inputs
    for key in path.replace("[0]", ".0").split("."):
        if isinstance(value, list):
            value = value[int(key)] if len(value) > int(key) else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _same(before: Any, after: Any) -> bool:
    """Equal, but for the case of letters: after a refresh Azure's ids come in a case of its own."""
    return bool(before == after) or str(before).lower() == str(after).lower()


def _grown(before: Any, after: Any) -> bool:
    if isinstance(before, int | float):
        return isinstance(after, int | float) and after >= before
    return list(after or ())[: len(before or ())] == list(before or ())


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return "another"
    # Pulumi's wire has one kind of number.
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
