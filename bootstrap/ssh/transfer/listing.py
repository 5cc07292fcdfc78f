"""What of a file or a folder is on a node, and which of it travels together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.ssh.command import Command, script
from bootstrap.ssh.command_output import TEXT_LIMIT
from bootstrap.ssh.local_files import PARTIAL
from bootstrap.ssh.transfer.limits import Limited

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

SMALL = 1 << 20
"""Bytes; larger files travel alone."""
BATCH = 64 << 20

# $1: a file or a folder. Size, hash of as many bytes (it may be growing), name: of each file in it.
LIST = """
if [ -d "$1" ]; then cd -- "$1"; only=
elif [ -f "$1" ]; then cd -- "$(dirname -- "$1")"; only=$(basename -- "$1")
else exit 0
fi
find "./$only" -type f -printf '%s\\0%p\\0' 2>/dev/null | xargs -0 -r -n 64 sh -c '
  while [ $# -gt 0 ]; do
    hash=$(head -c "$1" -- "$2" | sha256sum) && printf "%s %s %s\\0" "${hash%% *}" "$1" "$2"
    shift 2
  done' list
"""
LISTED = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<size>\d{1,18}) \./(?P<name>.+)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A file's size and SHA-256."""

    size: int
    sha256: str


def entry_of(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def has(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size and entry_of(path) == entry


def listed(host: Host, path: str) -> dict[str, Entry]:
    """What lies in a folder on the node, by its name there; a file is listed as itself."""
    listing = Limited(TEXT_LIMIT, f"{host.name}: its list of {path}")
    host.stream(Command(script(LIST, path), sink=listing.take))
    listed = {}
    for line in listing.content.decode("utf-8", "surrogateescape").split("\0"):
        found = LISTED.fullmatch(line)
        if line and not found:
            raise UserError(f"{host.name}: its list of {path} cannot be read: {line[:80]!r}")
        if found and PARTIAL not in found["name"]:
            listed[found["name"]] = Entry(int(found["size"]), found["sha256"])
    return listed


def batches(names: list[str], entries: dict[str, Entry]) -> Iterable[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and size + entries[name].size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += entries[name].size
    if batch:
        yield batch
