"""Plans that tests share: each distinct config is run once."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

from infra.plan import plan

KEY = Path(plan.__file__).with_name("example_key.pub")
BASE = {"allowed_ssh_cidr": "203.0.113.7/32", "ssh_public_key_path": str(KEY)}


@cache
def _made(values: tuple[tuple[str, str], ...], preview: bool) -> dict[str, Any]:
    return plan.make(dict(values), preview=preview)


def planned(
    changes: dict[str, str] | None = None, *, preview: bool = False, **more: str
) -> dict[str, Any]:
    """The plan of the smallest complete config with some keys changed; the caller may edit it."""
    values = tuple(sorted({**BASE, **(changes or {}), **more}.items()))
    return copy.deepcopy(_made(values, preview))


def resource(made: dict[str, Any], name: str) -> dict[str, Any]:
    """One resource of a plan by its logical name."""
    (found,) = (one for one in made["resources"] if one["name"] == name)
    return dict(found)
