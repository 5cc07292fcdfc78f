"""Pulumi.<stack>.yaml, where `pulumi config set` keeps a stack's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from infra.errors import UserError
from infra.plan.recording import PROJECT


def path_of(stack: str, folder: Path) -> Path:
    """Where Pulumi keeps the config of a stack; of org/project/stack, the last part counts."""
    return folder / f"Pulumi.{stack.rsplit('/', 1)[-1]}.yaml"


def read(path: Path) -> dict[str, str]:
    """This project's keys, as the strings that Pulumi hands to a program.

    Raises:
        UserError: unreadable, not YAML, not a stack's config, or a value is a secret or no scalar.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is not valid YAML ({where}). Correct it, or delete it.") from error
    config = content.get("config", {}) if isinstance(content, dict) else content
    if not isinstance(config, dict | None):
        raise UserError(f"{path} holds no mapping named config: write it with pulumi config set.")
    prefix = f"{PROJECT}:"
    ours = {
        str(key).removeprefix(prefix): value
        for key, value in (config or {}).items()
        if str(key).startswith(prefix)
    }
    odd = [key for key, value in ours.items() if not isinstance(value, str | int | float | bool)]
    if odd:
        raise UserError(
            f"{path}: {', '.join(odd)} must be plain values: no key here is a secret or a list."
        )
    return {key: _as_pulumi_prints(value) for key, value in ours.items()}


def _as_pulumi_prints(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
