"""The inventory that `fab bootstrap` was given last: what the commands after it mean without one.

So every command that a message names can be typed as it stands. It is kept in `.cluster/`, and each
use of it is said. Commands that remove things (clean, destroy) never go by it.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from bootstrap import atomic_files
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.read_inventory import read_inventory
from bootstrap.terminal import say

# No cluster's folder is called so: their names begin with a letter, a digit or a parenthesis.
FILE = Path(".cluster") / ".last-inventory"


def remember(where: str) -> None:
    """Keep what --inventory was; "": the selected stack was set up, so nothing is kept."""
    path = where if where == "local" else str(Path(where).absolute())
    with contextlib.suppress(OSError):  # it saves typing, no more
        if where:
            atomic_files.write(FILE, f"{path}\n".encode())
        else:
            FILE.unlink(missing_ok=True)


def last() -> str:
    """What is kept, as it would be typed here; "" where there is nothing, or no such file now."""
    try:
        kept = FILE.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return ""
    if kept == "local":
        return kept
    path = Path(kept)
    if not kept or not path.is_file():
        return ""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def inventory_or_last(where: str) -> Inventory:
    """The cluster of --inventory, else the one set up last, else the selected stack's."""
    kept = "" if where else last()
    if kept:
        _say_used(kept)
    return read_inventory(where or kept)


def inventory_to_remove(where: str) -> Inventory:
    """The cluster of --inventory, else the selected stack's: what is removed has to be named.

    Raises:
        UserError: there is none; says what --inventory was last.
    """
    try:
        return read_inventory(where)
    except UserError as error:
        kept = "" if where else last()
        if not kept:
            raise
        raise UserError(
            f"{error}\nThe cluster that was set up last is removed with its name alone:"
            f" --inventory {shlex.quote(kept)}"
        ) from error


def to_set_up(where: str) -> tuple[Inventory, str]:
    """The cluster of --inventory, else the selected stack's, else the one set up last.

    Returns:
        The cluster, and what --inventory is for the commands after it, for `remember`.
    """
    try:
        inventory = read_inventory(where)
    except UserError:
        kept = "" if where else last()
        if not kept:
            raise
        _say_used(kept)
        inventory, where = read_inventory(kept), kept
    return inventory, where


def _say_used(kept: str) -> None:
    say(f"--inventory {shlex.quote(kept)}, as it was given to fab bootstrap last", error=True)
