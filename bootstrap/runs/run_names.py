"""Names of runs, which are folders' names on every node."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootstrap.errors import UserError
from bootstrap.names import RUN


def check_name(name: str) -> str:
    """The name, if it is safe as a folder's.

    Raises:
        UserError: it is not.
    """
    if not RUN.fullmatch(name):
        raise UserError(
            f"--run {name}: must be letters, digits, dots, dashes and underscores (at most 64), "
            "and begin with a letter or a digit."
        )
    return name


def local_folder(name: str) -> Path:
    """Where a run's results come home to."""
    return Path("runs") / name


def free_name(token: str, runs: Sequence[dict[str, Any]]) -> str:
    """A name after the new word that no run has, there or here: dicoo, dicoo-2, dicoo-3 ..."""
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", token).strip("-._")[:48] or "run"
    taken = {run["name"] for run in runs}
    number = 1
    while (name := word if number == 1 else f"{word}-{number}") in taken or local_folder(
        name
    ).exists():
        number += 1
    return name
