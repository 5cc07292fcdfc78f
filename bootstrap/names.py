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
            f"{whose}: gives a file the name {name!r}, which is none below a folder. Nothing was"
            " written under it. Who made that name? The files there are not what they should be."
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
            f"{whose}: {path} would be written, which a link leads out of {folder}. Nothing was"
            " written under that name: remove the link."
        )
    return path


def run_name(name: str, whose: str) -> str:
    """A run's name.

    Raises:
        UserError: no run can be called so.
    """
    if not RUN.fullmatch(name):
        raise UserError(f"{whose}: calls a run {name!r}, which is no run's name (`fab train` made"
                        " none so called). Look at its folder of runs.")  # fmt: skip
    return name
