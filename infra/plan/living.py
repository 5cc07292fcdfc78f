"""A cluster that exists, as its state or its outputs tell: what a new plan is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.plan.recording import record

STACK = "pulumi:pulumi:Stack"


@dataclass(frozen=True)
class Living:
    """What is known of a cluster.

    Attributes:
        values: its config at the last `pulumi up`, by key.
        name: what its resources in Azure bear.
        resources: by logical name: `type`, `inputs`, and from a state also `id` and `outputs`.
        exact: whether they come from Pulumi's state; outputs tell only what the config asked for.
    """

    values: dict[str, str]
    name: str
    resources: Mapping[str, Mapping[str, Any]]
    exact: bool


def read(path: Path, stack: str) -> Living:
    """The cluster in a file: `pulumi stack export`, or `pulumi stack output --json`.

    Raises:
        UserError: absent, not JSON, or neither of the two.
    """
    fix = f"Write it with: pulumi stack export --file {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). {fix}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON. {fix}") from error
    if isinstance(content, dict) and "deployment" in content:
        return of_state(content)
    if isinstance(content, dict) and content.get("config"):
        return of_outputs(content, stack)
    raise UserError(f"{path} is neither a stack's state nor its outputs with a config. {fix}")


def of_state(exported: Mapping[str, Any]) -> Living:
    """From what `pulumi stack export` prints."""
    every = (exported["deployment"] or {}).get("resources") or []
    outputs: dict[str, Any] = {}
    for one in every:
        if one["type"] == STACK:
            outputs = one.get("outputs") or {}
    resources = {
        one["urn"].rpartition("::")[2]: {
            "type": one["type"],
            "inputs": one.get("inputs") or {},
            "protect": one.get("protect", False),
            "id": one.get("id"),
            "outputs": one.get("outputs") or {},
        }
        for one in every
        # What is only waiting for its deletion is not what the next plan finds.
        if one.get("custom") and not one.get("delete") and one["type"].startswith("azure-native:")
    }
    return Living(dict(outputs.get("config") or {}), _name(outputs), resources, True)


def of_outputs(outputs: Mapping[str, Any], stack: str) -> Living:
    """From a stack's outputs: the program is run with the config that they hold."""
    values = {**outputs["config"], "name": _name(outputs)}
    recorded = record(values, stack)
    # What was kept at an earlier change is known of the nodes alone.
    resources = {one["name"]: one for one in recorded["requests"] if one["custom"]}
    for index, node in enumerate(outputs["nodes"]):
        machine = resources.get(f"machine-{index}")
        if machine and node.get("image"):
            parts = zip(
                ("publisher", "offer", "sku", "version"), node["image"].split(":"), strict=False
            )
            machine["inputs"]["storageProfile"]["imageReference"] = dict(parts)
        if machine and node.get("ssh_public_key"):
            linux = machine["inputs"]["osProfile"]["linuxConfiguration"]
            linux["ssh"]["publicKeys"][0]["keyData"] = node["ssh_public_key"]
    return Living(dict(outputs["config"]), values["name"], resources, False)


def _name(outputs: Mapping[str, Any]) -> str:
    """What its resources bear; outputs of before there was a name have their own group's."""
    return str(outputs.get("name") or outputs.get("resource_group", "")).removeprefix("rg-")
