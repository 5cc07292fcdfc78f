"""A recursive check of what the program sends against the models of Azure's own SDK.

The models reject nothing by themselves. What they know is read here: the name, type, and enum of
each field, which ones are required, and which ones only Azure may set.
"""

from __future__ import annotations

import importlib
import re
from enum import Enum
from inspect import signature
from types import ModuleType
from typing import Any

from infra.rules.kinds import NAME_KEYS

MODELS = {
    "azure-native:resources:ResourceGroup": (
        "azure.mgmt.resource.resources.v2024_07_01.models",
        "ResourceGroup",
    ),
    "azure-native:compute:VirtualMachine": (
        "azure.mgmt.compute.v2024_11_01.models",
        "VirtualMachine",
    ),
    "azure-native:compute:Disk": ("azure.mgmt.compute.v2024_03_02.models", "Disk"),
    "azure-native:compute:ProximityPlacementGroup": (
        "azure.mgmt.compute.v2024_11_01.models",
        "ProximityPlacementGroup",
    ),
    "azure-native:authorization:RoleAssignment": (
        "azure.mgmt.authorization.v2022_04_01.models",
        "RoleAssignmentCreateParameters",
    ),
    **{
        f"azure-native:network:{name}": ("azure.mgmt.network.models", name)
        for name in (
            "NatGateway",
            "NetworkInterface",
            "NetworkSecurityGroup",
            "PublicIPAddress",
            "Subnet",
            "VirtualNetwork",
        )
    },
}
IN_THE_ADDRESS = {*NAME_KEYS.values(), "resourceGroupName", "virtualNetworkName", "scope"}
"""Inputs that become parts of the request's URL."""
OPEN_ENUMS = {"VirtualMachineSizeTypes"}
"""Azure's reference calls this list out of date and takes other sizes; infra checks them itself."""
PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
}


def complaints(resource: dict[str, Any]) -> list[str]:
    """Everything in one request body that Azure's model does not have or wants otherwise."""
    module_name, class_name = MODELS[resource["type"]]
    module = importlib.import_module(module_name)
    body = {key: part for key, part in resource["inputs"].items() if key not in IN_THE_ADDRESS}
    return list(_object(body, getattr(module, class_name), module, resource["name"]))


def _object(value: Any, model: type[Any], module: ModuleType, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {type(value).__name__} in the place of {model.__name__}"]
    fields: dict[str, tuple[str, str]] = {
        # Pulumi leaves out the level `properties`, and ARM keeps every path to itself.
        description["key"].removeprefix("properties."): (attribute, description["type"])
        for attribute, description in model._attribute_map.items()
    }
    rules = model._validation
    found = []
    for key, part in value.items():
        if key not in fields:
            found.append(f"{where}.{key}: no such property of {model.__name__}")
            continue
        attribute, kind = fields[key]
        if rules.get(attribute, {}).get("readonly") and attribute != "id":
            found.append(f"{where}.{key}: only Azure sets it")
        found += _value(part, kind, _enum(model, attribute, module), module, f"{where}.{key}")
    for key, (attribute, _) in fields.items():
        if rules.get(attribute, {}).get("required") and key not in value:
            found.append(f"{where}.{key}: is required")
    return found


def _value(
    value: Any, kind: str, enum: type[Enum] | None, module: ModuleType, where: str
) -> list[str]:
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{where}: {type(value).__name__} in the place of a list"]
        return [
            text
            for index, part in enumerate(value)
            for text in _value(part, kind[1:-1], enum, module, f"{where}[{index}]")
        ]
    if kind.startswith("{"):
        if not isinstance(value, dict):
            return [f"{where}: {type(value).__name__} in the place of a mapping"]
        return [
            text
            for key, part in value.items()
            for text in _value(part, kind[1:-1], enum, module, f"{where}.{key}")
        ]
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
            return [f"{where}: {value!r} is no {kind}"]
        if enum is not None and value not in [member.value for member in enum]:
            return [f"{where}: {value!r} is not a {enum.__name__}"]
        return []
    return _object(value, getattr(module, kind), module, where)


def _enum(model: type[Any], attribute: str, module: ModuleType) -> type[Enum] | None:
    """The enum of a field: the attribute map says only `str`, the constructor's type says more."""
    parameter = signature(model.__init__).parameters.get(attribute)
    for name in re.findall(r"models\.(\w+)", str(parameter.annotation) if parameter else ""):
        candidate = getattr(module, name, None)
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            return None if name in OPEN_ENUMS else candidate
    return None
