"""Names that a node, the hub or a neighbour gives, checked before they become a path here.

Whoever may name a file may otherwise write any: `../../.ssh/authorized_keys` is a name too. What
runs on nodes reads this as well: the standard library alone.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from bootstrap.errors import UserError

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A run's name, which is a folder's on every machine."""


def relative(name: str, whose: str) -> PurePosixPath:
    """A file's name below some folder.

    Args:
        whose: who gives it, for the message.

    Raises:
        UserError: it leads, or could lead, out of that folder.
    """
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"{whose}: lists a file {name!r}, a name that could lead out of its folder. Nothing"
            " was written under that name. Check which program created it there."
        )
    return PurePosixPath(*parts)


def under(folder: Path, name: str, whose: str) -> Path:
    """Where a file of that name lies below `folder` here.

    Raises:
        UserError: not below it: by its name, or because a link of that name leads elsewhere.
    """
    path = folder / relative(name, whose)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{whose}: {path}: a link leads out of {folder}. Nothing was written under that name:"
            " remove the link."
        )
    return path


def run_name(name: str, whose: str) -> str:
    """A run's name.

    Raises:
        UserError: no run can be called so.
    """
    if not RUN.fullmatch(name):
        raise UserError(f"{whose}: lists a run {name!r}, which is no valid run name (`fab"
                        " train` makes none like it). Check the folder of runs there.")  # fmt: skip
    return name
