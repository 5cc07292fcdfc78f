"""The rules in the program itself: what breaks one is refused before anything is asked of Azure.

The parts of a cluster are looked at as they are made. Their requests leave only after the program
has ended or waits, so a refusal comes before the first of them, with or without a preview.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from infra.rules.policies import Stack
from infra.rules.rules import UNKNOWN


class Checked:
    """The inputs of everything that is made inside one component, held to the rules.

    Attributes:
        options: to be merged into the component's; its children inherit them.
    """

    def __init__(self) -> None:
        self.stack = Stack()
        self.dependencies: dict[str, list[str]] = {}
        self.options = pulumi.ResourceOptions(transformations=[self._take])

    def _take(self, made: pulumi.ResourceTransformationArgs) -> None:
        options = made.opts
        self.stack.add(
            made.name,
            made.type_,
            inputs(type(made.resource), made.props),
            bool(options.protect),
            options.delete_before_replace,
        )
        one = self.stack.resources[made.name]
        one["retain_on_delete"] = bool(options.retain_on_delete)
        one["import_id"] = options.import_ or ""
        after = options.depends_on
        if isinstance(after, Sequence):
            named = [other._name for other in after if isinstance(other, pulumi.Resource)]
            self.dependencies[made.name] = named

    def refuse_violations(self, ssh_from_anywhere: bool) -> None:
        """Stop the program where a rule is broken.

        Raises:
            pulumi.RunError: names every broken rule.
        """
        found = self.stack.violations(self.dependencies, ssh_from_anywhere)
        if found:
            raise pulumi.RunError("\n".join(["The cluster would break its own rules:", *found]))


def inputs(kind: type, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as Azure calls them, of a resource or of one of the SDK's ...Args; no absent ones."""
    return {
        azures_name(kind, name): plain(value)
        for name, value in properties.items()
        if value is not None
    }


def azures_name(kind: type, name: str) -> str:
    """A property's name in ARM (privateIPAddress) from its name in the SDK (private_ip_address).

    Where the SDK has a getter of that name, it knows; else (vmName) there is nothing to abbreviate.
    """
    getter = getattr(getattr(kind, name, None), "fget", None)
    known: str | None = getattr(getter, "_pulumi_name", None)
    return known or re.sub(r"_([a-z0-9]+)", lambda word: word[1].capitalize(), name)


def plain(value: Any) -> Any:
    """A value as JSON has it; what is not known before something exists is said to be unknown."""
    if isinstance(value, pulumi.Output):
        return UNKNOWN
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [plain(part) for part in value]
    return inputs(type(value), vars(value))
