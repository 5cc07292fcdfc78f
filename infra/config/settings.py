"""From the strings of a stack's config to a `ClusterConfig`, or one message with every error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from infra.config.config import ClusterConfig
from infra.errors import UserError


def validate(values: Mapping[str, Any], where: str = "the stack's config") -> ClusterConfig:
    """A valid configuration.

    Args:
        values: by key, without the project's name; Pulumi keeps every value as a string.
        where: what the message calls their source.

    Raises:
        UserError: names every wrong key and value at once, each with its rule and the fix.
    """
    try:
        return ClusterConfig.model_validate(dict(values))
    except ValidationError as error:
        problems = [describe(problem) for problem in error.errors()]
    lines = "\n".join(f"  - {problem}" for problem in problems)
    plural = "s" if len(problems) > 1 else ""
    raise UserError(
        f"{len(problems)} error{plural} in {where}:\n{lines}\n"
        "  Set a key with: pulumi config set KEY VALUE. All keys: Pulumi.yaml."
    )


def describe(problem: Any) -> str:
    """One pydantic error as a line: the key, the value, the rule, the fix."""
    key = str(problem["loc"][0]) if problem["loc"] else "config"
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, ClusterConfig.model_fields, n=1, cutoff=0.6)
        nearest = f"; did you mean {close[0]}?" if close else ""
        return f"{key}: no such key{nearest}"
    if problem["type"] == "missing":
        return f"{key}: is required. {ClusterConfig.model_fields[key].description}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "ip_v4_network":
        message = "must be an IPv4 range such as 203.0.113.7/32, its host bits zero"
    elif message == problem["msg"]:
        message = f"{message[0].lower()}{message[1:]}"
    value = str(problem["input"])
    # Whoever pastes a key in a wrong place does not want it in a log as well.
    shown = "(a private key)" if "PRIVATE KEY" in value else repr(value[:80])
    return f"{key} = {shown}: {message}"
