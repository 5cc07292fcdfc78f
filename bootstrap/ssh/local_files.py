"""The files of a folder of the person's, listed once for all who hash, check or send them.

A folder may have come from elsewhere, with a link in it to what is nobody else's: only what lies in
the folder itself leaves this machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from bootstrap.errors import UserError

PARTIAL = ".partial-"
"""In the name of a file that is still being received."""


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder, by its name in there, sorted as `LC_ALL=C sort` has it.

    A link to a file of the folder stands for that file. So does one to the blobs of the same
    repository in the hub's cache: `models--a--b/snapshots/REVISION` holds nothing but links.

    Raises:
        UserError: a link leads out of the folder, to a folder, or nowhere; names it.
    """
    root = folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(root):
        for path in (Path(parent, name) for name in (*folders, *names)):
            if path.is_symlink():
                _check_link(path, homes)
            name = path.relative_to(root).as_posix()
            if path.is_file() and PARTIAL not in name:
                found[name] = path
    return {name: found[name] for name in sorted(found, key=os.fsencode)}


def _check_link(link: Path, homes: list[Path]) -> None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle, before Python 3.13
        raise UserError(f"{link}: is a link that leads nowhere. Remove it.") from error
    if not any(target.is_relative_to(home) for home in homes):
        raise UserError(
            f"{link}: is a link that leads out of its folder, to {target}. Nothing was sent: put a"
            " copy of what is meant in its place."
        )
    if target.is_dir():
        raise UserError(f"{link}: is a link to a folder. Put the folder itself in its place.")
