"""From a node to the person's machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.names import under
from bootstrap.ssh.command import SPOOLED, Command, OnBytes, script
from bootstrap.ssh.local_files import PARTIAL
from bootstrap.ssh.transfer.limits import check_room
from bootstrap.ssh.transfer.listing import SMALL, Entry, batches, has, listed

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

GIB = 1 << 30

# $1: the folder. Standard input: size and name of each wanted file, each with a NUL behind it.
# Prints so many bytes of each: it may have grown since it was listed.
TOGETHER = """
cd -- "$1" && xargs -0 -r -n 64 sh -c '
  while [ $# -gt 0 ]; do head -c "$1" -- "$2" || exit 255; shift 2; done' together
"""
# $1: the file, $2: its first byte that is wanted (from 1), $3: how many from there.
REST = 'tail -c "+$2" -- "$1" | head -c "$3"'


def fetch(host: Host, path: str, target: Path, on_bytes: OnBytes | None = None) -> None:
    """Copy a file or a folder of the node to the person: only what differs, resumed.

    What begins with a dot stays there: it is being written, or a record that is kept here.
    """
    is_file = host.exists(path, "f")
    there = listed(host, path)
    if not there and not host.exists(path, "d"):
        raise UserError(f"{host.name}: {path} does not exist there; nothing was fetched.")
    folder = path.rpartition("/")[0] if is_file else path
    if is_file and len(there) > 1:
        raise UserError(f"{host.name}: {path} is one file, and it lists {len(there)}.")
    if not is_file:
        there = {name: entry for name, entry in there.items() if not _has_dot(name)}
    local = {name: target if is_file else under(target, name, host.name) for name in there}
    differing = [name for name, entry in there.items() if not has(local[name], entry)]
    _check_disk(target, sum(there[name].size for name in differing), f"{host.name}: {path}")
    for batch in batches([name for name in differing if there[name].size <= SMALL], there):
        _fetch_together(host, folder, {name: there[name] for name in batch}, local, on_bytes)
    for name in differing:
        if there[name].size > SMALL:
            _fetch_alone(host, f"{folder}/{name}", local[name], there[name], on_bytes)


def _check_disk(target: Path, size: int, what: str) -> None:
    """Raises UserError where that much has no room here."""
    place = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise UserError(
            f"{what} has {size / GIB:.1f} GiB that are not here, and {place} has only"
            f" {free / GIB:.1f} GiB free. Nothing was fetched."
        )


def _has_dot(name: str) -> bool:
    """Whether a file or a folder above it is a hidden one; `..` is for `under` to refuse."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _into(
    stream: IO[bytes], limit: int, what: str, on_bytes: OnBytes | None
) -> Callable[[bytes], None]:
    """Takes what a node sends, and not a byte more than was listed."""

    def take(piece: bytes) -> None:
        check_room(stream.tell() + len(piece), limit, what)
        stream.write(piece)
        if on_bytes:
            on_bytes(len(piece))

    return take


def _fetch_together(
    host: Host,
    folder: str,
    entries: dict[str, Entry],
    local: dict[str, Path],
    on_bytes: OnBytes | None,
) -> None:
    total = sum(entry.size for entry in entries.values())
    wanted = "".join(f"{entry.size}\0./{name}\0" for name, entry in entries.items())
    names = wanted.encode("utf-8", "surrogateescape")
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as stream:
        sink = _into(stream, total, f"{host.name}: {folder}", on_bytes)
        host.stream(Command(script(TOGETHER, folder), io.BytesIO(names), len(names), sink=sink))
        stream.seek(0)
        for name, entry in entries.items():
            content = stream.read(entry.size)
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise _changed(host, name)
            partial = _partial(local[name], entry)
            with partial.open("wb") as file:
                file.write(content)
                _sync(file)
            partial.replace(local[name])


def _fetch_alone(
    host: Host, path: str, target: Path, entry: Entry, on_bytes: OnBytes | None
) -> None:
    partial = _partial(target, entry)
    have = partial.stat().st_size if partial.exists() else 0
    with partial.open("ab") as file:
        line = script(REST, path, have + 1, max(entry.size - have, 0))
        sink = _into(file, entry.size, f"{host.name}: {path}", on_bytes)
        host.stream(Command(line, sink=sink))
        _sync(file)
    if not has(partial, entry):
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _changed(host, path)
    partial.replace(target)


def _partial(target: Path, entry: Entry) -> Path:
    """What a file is called until it is whole, in a folder that is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f"{target.name}{PARTIAL}{entry.sha256[:12]}")


def _changed(host: Host, name: str) -> UserError:
    return UserError(
        f"{host.name}: {name} changed while it was fetched, or arrived damaged. Fetch again."
    )


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
