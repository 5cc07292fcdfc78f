"""The rules as they are told of resources one by one: by Pulumi's policy pack, and by the program.

Nothing here needs Pulumi: the pack has an environment of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from infra.rules import rules
from infra.rules.kinds import NIC, NSG

Look = Callable[[Any, Any], Any]
SECURITY_GROUP = "security-group"
"""Logical name of what each cluster has one of, after its prefix."""


class Stack:
    """The resources of one preview or update: first each one's inputs, then who depends on whom."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}

    def add(
        self, urn: str, kind: str, inputs: Mapping[str, Any], protect: bool, replaced: bool | None
    ) -> None:
        """Take a resource: `replaced` is whether it is deleted before it is replaced."""
        self.resources[urn] = {
            "type": kind,
            "name": urn.rpartition("::")[2],
            "custom": kind.startswith("azure-native:"),
            "inputs": inputs,
            "depends_on": [],
            "protect": protect,
            # A policy pack is not told of these.
            "retain_on_delete": False,
            "import_id": "",
            "delete_before_replace": replaced is not False,
        }

    def violations(
        self, dependencies: Mapping[str, Iterable[str]], ssh_from_anywhere: bool = False
    ) -> list[str]:
        """Every broken rule of each cluster; the dependencies are URNs by URN."""
        for urn, others in dependencies.items():
            if urn in self.resources:
                names = sorted(other.rpartition("::")[2] for other in others)
                self.resources[urn]["depends_on"] = names
        found = []
        for prefix, resources in self._clusters().items():
            nodes = [
                {"name": one["name"], "private_ip": ip["privateIPAddress"]}
                for one in resources
                if one["type"] == NIC
                for ip in one["inputs"]["ipConfigurations"]
            ]
            nodes.sort(key=lambda node: int(node["name"].rpartition("-")[2]))
            plan = {"resources": resources, "outputs": {"nodes": nodes}}
            found += [
                text.replace(": ", f": {prefix}", 1)
                for text in rules.violations(plan, ssh_from_anywhere)
            ]
        return found

    def _clusters(self) -> dict[str, list[dict[str, Any]]]:
        """The resources of each cluster, by the prefix of their names, which is cut off there."""
        groups = [one["name"] for one in self.resources.values() if one["type"] == NSG]
        prefixes = sorted((name.removesuffix(SECURITY_GROUP) for name in groups), key=len)
        clusters: dict[str, list[dict[str, Any]]] = {prefix: [] for prefix in prefixes}
        for one in self.resources.values():
            own = [prefix for prefix in prefixes if one["name"].startswith(prefix)]
            if own:
                prefix = own[-1]
                name = one["name"].removeprefix(prefix)
                depends_on = [other.removeprefix(prefix) for other in one["depends_on"]]
                clusters[prefix].append({**one, "name": name, "depends_on": depends_on})
        return clusters


def plain(value: Any, look: Look) -> Any:
    """Inputs as JSON has them; `look(mapping or sequence, key)` says what is not known yet."""
    if isinstance(value, Mapping):
        return {str(key): plain(look(value, key), look) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(look(value, index), look) for index in range(len(value))]
    return value
