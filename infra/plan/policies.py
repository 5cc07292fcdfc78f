"""The rules as a policy pack is told of resources: `pulumi up --policy-pack policy`.

Nothing here needs Pulumi: the pack has an environment of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from infra.plan import rules
from infra.program.kinds import NIC

Look = Callable[[Any, Any], Any]


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

    def violations(self, dependencies: Mapping[str, Iterable[str]]) -> list[str]:
        """Every broken rule; the dependencies are URNs by URN."""
        for urn, others in dependencies.items():
            if urn in self.resources:
                names = sorted(other.rpartition("::")[2] for other in others)
                self.resources[urn]["depends_on"] = names
        nodes = [
            {"name": one["name"], "private_ip": ip["privateIPAddress"]}
            for one in self.resources.values()
            if one["type"] == NIC
            for ip in one["inputs"]["ipConfigurations"]
        ]
        nodes.sort(key=lambda node: int(node["name"].rpartition("-")[2]))
        plan = {"resources": list(self.resources.values()), "outputs": {"nodes": nodes}}
        return rules.violations(plan)


def plain(value: Any, look: Look) -> Any:
    """Inputs as JSON has them; `look(mapping or sequence, key)` says what is not known yet."""
    if isinstance(value, Mapping):
        return {str(key): plain(look(value, key), look) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(look(value, index), look) for index in range(len(value))]
    return value
