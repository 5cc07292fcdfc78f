"""What `pulumi up` would do to a cluster that exists: from its state and a new plan to steps.

It follows Pulumi's engine and the azure-native provider as their documentation and source describe
them, and the table in `infra.program.changes` for what Azure itself answers. Neither was run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.program.changes import at, refusals
from infra.rules.kinds import GROUP, NAME_KEYS, ROLE, VM

Action = Literal["create", "delete", "kept", "update", "restart", "replace", "refused"]
FORCED = {"location", "resourceGroupName", "virtualNetworkName", "principalId", "scope"}
"""Inputs whose change makes the provider replace a resource, beside its name."""
WORDS = {"delete": "deleted", "replace": "replaced"}
PROVIDERS_OWN = "__defaults"


@dataclass(frozen=True)
class Step:
    """What happens to one resource.

    Attributes:
        name: its logical name.
        kind: its type.
        action: kept: the program asks for something else and the old value stays.
        paths: the inputs that change.
        says: why it is refused, or what is lost.
    """

    name: str
    kind: str
    action: Action
    paths: tuple[str, ...] = ()
    says: str = ""

    @property
    def stem(self) -> str:
        """The name without a node's number."""
        return re.sub(r"-\d+$", "", self.name)


def between(living: Mapping[str, Mapping[str, Any]], plan: Mapping[str, Any]) -> list[Step]:
    """The steps from the resources that exist to those of a plan that was made with them."""
    wanted = {one["name"]: one for one in plan["resources"] if one["custom"]}
    steps = [
        step
        for name, one in wanted.items()
        for step in (_changed(living[name], one) if name in living else [_created(one)])
    ]
    steps += [
        Step(name, one["type"], "delete", says=_lost(one["type"]))
        for name, one in living.items()
        if name not in wanted
    ]
    return [
        _protected(step) if living.get(step.name, {}).get("protect") else step
        for step in _with_dependents(steps, wanted, living)
    ]


def _protected(step: Step) -> Step:
    """Pulumi's engine refuses to delete or replace what is protected."""
    if step.action not in WORDS:
        return step
    says = (
        f"{step.name}: is protected and would be {WORDS[step.action]}, its data lost. If that is"
        " what you want: pulumi state unprotect, with its URN"
    )
    return Step(step.name, step.kind, "refused", step.paths, says)


def _created(one: Mapping[str, Any]) -> Step:
    return Step(one["name"], one["type"], "create")


def _changed(old: Mapping[str, Any], one: Mapping[str, Any]) -> Iterator[Step]:
    name, kind = one["name"], one["type"]
    before, after = old["inputs"], one["inputs"]
    kept = tuple(
        path for path in one["ignore_changes"] if at(one["asked"], path) != at(after, path)
    )
    if kept:
        yield Step(name, kind, "kept", kept)
    paths = tuple(_paths(before, after))
    if not paths:
        return
    forced = {*FORCED, NAME_KEYS.get(kind, "")}
    replaced = [
        path
        for path in paths
        if path in forced or any(_inside(path, given) for given in one["replace_on_changes"])
    ]
    refused = list(refusals(kind, name, before, after)) if one["hooks"] else []
    if replaced:
        yield Step(name, kind, "replace", tuple(replaced), _lost(kind))
    elif refused:
        yield Step(name, kind, "refused", paths, "\n".join(refused))
    elif "hardwareProfile.vmSize" in paths:
        yield Step(name, kind, "restart", paths)
    else:
        yield Step(name, kind, "update", paths)


def _with_dependents(
    steps: list[Step], wanted: Mapping[str, Mapping[str, Any]], living: Mapping[str, Any]
) -> list[Step]:
    """Also what goes with a group that is replaced, and the role of a head that is."""
    replaced = {step.name for step in steps if step.action == "replace"}
    groups = {name for name in replaced if wanted[name]["type"] == GROUP}
    along = {
        name
        for name, one in wanted.items()
        if name in living and name not in replaced
        if groups & set(one["depends_on"])
        or (one["type"] == ROLE and replaced & set(one["depends_on"]))
    }
    rest = [step for step in steps if step.name not in along]
    kinds = {name: wanted[name]["type"] for name in along}
    return rest + [
        Step(name, kind, "replace", (), _lost(kind)) for name, kind in sorted(kinds.items())
    ]


def _paths(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two inputs differ: as deep as mappings go; lists are one value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after} - {PROVIDERS_OWN}):
            where = f"{path}.{key}" if path else key
            yield from _paths(before.get(key), after.get(key), where)
    elif _plain(before) != _plain(after):
        yield path


def _plain(value: Any) -> Any:
    """Without the provider's own keys, as they are in an exported state."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if key != PROVIDERS_OWN}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _inside(path: str, given: str) -> bool:
    return path == given or path.startswith((f"{given}.", f"{given}["))


def _lost(kind: str) -> str:
    lost = {VM: "its OS disk", "azure-native:network:PublicIPAddress": "its address"}
    return lost.get(kind, "")


def warnings(steps: Sequence[Step]) -> list[str]:
    """What is easily overlooked: what is lost, and nodes that stay as they are."""
    lost = [f"{step.name} is {WORDS[step.action]}: {step.says} is lost" for step in steps
            if step.action in WORDS and step.says]  # fmt: skip
    kept = [step for step in steps if step.action == "kept" and step.kind == VM]
    if kept:
        what = sorted({path for step in kept for path in step.paths})
        names = ", ".join(step.name for step in kept)
        grows = any(step.action == "create" and step.kind == VM for step in steps)
        more = " and new nodes get what the config says" if grows else ""
        lost.append(
            f"{names}: {', '.join(what)} stay as they are{more}; replace_nodes true replaces the"
            " VMs, disks included"
        )
    return lost


def summary(steps: Sequence[Step]) -> dict[str, list[str]]:
    """The stems of the resources by action; a refusal stands alone, as nothing else happens."""
    acted = sorted({(step.action, step.stem) for step in steps})
    if any(action == "refused" for action, _ in acted):
        acted = [one for one in acted if one[0] == "refused"]
    found: dict[str, list[str]] = {}
    for action, stem in acted:
        found.setdefault(action, []).append(stem)
    return found
