"""Files between the person's machine and a node: only what differs, whole or not at all, resumed.

Both ways the receiving side writes to a temporary name, syncs, checks SHA-256 and renames. Small
files travel together in one tar stream; large ones alone, so that they go on where they were cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.names import under
from bootstrap.ssh.command import Command, OnBytes, script
from bootstrap.ssh.command_output import TEXT_LIMIT, Lines
from bootstrap.ssh.local_files import PARTIAL, files_of

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

SPOOLED = 8 << 20
SMALL = 1 << 20
BATCH = 64 << 20
CHUNK = 1 << 20
GIB = 1 << 30
INCOMING = ".incoming"

# $1: the file, $2: its size, $3: its mode.
WRITE = """
set -e
mkdir -p -- "$(dirname -- "$1")"
new="$1.new-$$"
trap 'rm -f -- "$new"' EXIT
umask 077
cat > "$new"
[ "$(wc -c < "$new")" -eq "$2" ]
chmod "$3" "$new"
sync -- "$new"
mv -f -- "$new" "$1"
trap - EXIT
sync -- "$(dirname -- "$1")"
"""
# $@: files. What they hold, then who may read them.
LOOK = 'sha256sum -- "$@"; echo =; stat -c "%a %n" -- "$@"'
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
# $1: the folder. Standard input: a tar of files to put there.
UNPACK = f"""
set -e
mkdir -p -- "$1"
cd -- "$1"
rm -rf {INCOMING}
mkdir {INCOMING}
tar -xf - -C {INCOMING}
find {INCOMING} -type f -print0 | xargs -0 -r sync --
(cd {INCOMING} && find . -type d -print0) | xargs -0 -r mkdir -p --
(cd {INCOMING} && find . -type f -print0) | xargs -0 -r -n 1 sh -c 'mv -f -- "{INCOMING}/$0" "$0"'
rm -rf {INCOMING}
sync -- .
"""
# $1: the file, $2: what it is called until it is whole, $3: its hash, $4: its mode. Standard input:
# what is missing of it.
APPEND = """
set -e
mkdir -p -- "$(dirname -- "$1")"
cat >> "$2"
found=$(sha256sum < "$2")
if [ "${found%% *}" != "$3" ]; then rm -f -- "$2"; echo "$1 arrived damaged" >&2; exit 74; fi
chmod "$4" "$2"
sync -- "$2"
mv -f -- "$2" "$1"
sync -- "$(dirname -- "$1")"
"""
LISTED = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<size>\d{1,18}) \./(?P<name>.+)", re.DOTALL)
# $1: the folder. Standard input: size and name of each wanted file, each with a NUL behind it.
# Prints so many bytes of each: it may have grown since it was listed.
TOGETHER = """
cd -- "$1" && xargs -0 -r -n 64 sh -c '
  while [ $# -gt 0 ]; do head -c "$1" -- "$2" || exit 255; shift 2; done' together
"""
# $1: the file, $2: its first byte that is wanted (from 1), $3: how many from there.
REST = 'tail -c "+$2" -- "$1" | head -c "$3"'
REMOVE = 'cd -- "$1" && xargs -0 -r rm -f --'
SIZE = 'if [ -f "$1" ]; then wc -c < "$1"; else echo 0; fi'


class Limited:
    """Bytes that a node sends, of which no more are taken than it was asked for.

    Attributes:
        content: what has come.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.content = bytearray()
        self._limit, self._what = limit, what

    def take(self, piece: bytes) -> None:
        """A piece; raises UserError where it is one too many."""
        check_room(len(self.content) + len(piece), self._limit, self._what)
        self.content += piece


def check_room(size: int, limit: int, what: str) -> None:
    """Raises UserError where `size` bytes are more than `limit`; so what sends them is ended."""
    if size > limit:
        raise UserError(f"{what}: more was sent than {limit} bytes; the rest was refused.")


@dataclass(frozen=True)
class Entry:
    """A file's size and SHA-256."""

    size: int
    sha256: str


def write(host: Host, path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, making its folder."""
    host.run(script(WRITE, path, len(content), f"{mode:o}"), stdin=content)


def read(host: Host, path: str) -> bytes:
    """A file's content.

    Raises:
        UserError: it cannot be read, or is larger than any that is read whole.
    """
    content = Limited(TEXT_LIMIT, f"{host.name}: {path}")
    _cat(host, path, content.take)
    return bytes(content.content)


def read_lines(host: Host, path: str, on_line: Callable[[str], None]) -> None:
    """Tell a file's lines, however many there are.

    Raises:
        UserError: it cannot be read.
    """
    lines = Lines(on_line, empty=True)
    _cat(host, path, lines.take)
    lines.take(b"")


def _cat(host: Host, path: str, sink: Callable[[bytes], None]) -> None:
    output = host.stream(Command(f"cat -- {shlex.quote(path)}", sink=sink))
    if output.exit_code != 0:
        raise UserError(f"{host.name}: {path} cannot be read: {output.stderr_text.strip()}")


def put(host: Host, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write those of `files` (path -> content and mode) that are not there as they should be."""
    listed = host.run(script(LOOK, *files), check=False).stdout
    hashes, _, modes = listed.partition("=\n")
    there = {line[66:]: line[:64] for line in hashes.splitlines()}
    mode_of = {path: mode for mode, _, path in (line.partition(" ") for line in modes.splitlines())}
    for path, (content, mode) in files.items():
        if there.get(path) != hashlib.sha256(content).hexdigest():
            write(host, path, content, mode)
        elif mode_of.get(path) != f"{mode:o}":
            host.run(["chmod", f"{mode:o}", path])


def send(
    host: Host, source: Path, path: str, on_bytes: OnBytes | None = None, *, exact: bool = False
) -> None:
    """Copy a file or a folder of the person's to the node: only what differs (SHA-256).

    Args:
        source: see `local_files` on links in it.
        path: what it is called there.
        on_bytes: told how many bytes have gone out, a piece at a time.
        exact: what else is in the folder there is removed.
    """
    if source.is_dir():
        files = files_of(source)
        folder = path
    elif source.is_file():
        folder, _, name = path.rpartition("/")
        files = {name: source}
    else:
        raise UserError(f"{source} does not exist: there is nothing to send to {host.name}.")
    there = _listed(host, path)
    here = {name: _entry(found) for name, found in files.items()}
    differing = [name for name in files if there.get(name) != here[name]]
    for batch in _batches([name for name in differing if here[name].size <= SMALL], here):
        _send_together(host, folder, {name: files[name] for name in batch}, on_bytes)
    for name in differing:
        if here[name].size > SMALL:
            _send_alone(host, f"{folder}/{name}", files[name], here[name], on_bytes)
    extra = [name for name in there if name not in files]
    if exact and extra and source.is_dir():
        host.run(script(REMOVE, folder), stdin=_null_ended(extra))


def fetch(host: Host, path: str, target: Path, on_bytes: OnBytes | None = None) -> None:
    """Copy a file or a folder of the node to the person: only what differs, resumed.

    What begins with a dot stays there: it is being written, or a record that is kept here.
    """
    is_file = host.exists(path, "f")
    there = _listed(host, path)
    if not there and not host.exists(path, "d"):
        raise UserError(f"{host.name}: {path} does not exist there; nothing was fetched.")
    folder = path.rpartition("/")[0] if is_file else path
    if is_file and len(there) > 1:
        raise UserError(f"{host.name}: {path} is one file, and it lists {len(there)}.")
    if not is_file:
        there = {name: entry for name, entry in there.items() if not _has_dot(name)}
    local = {name: target if is_file else under(target, name, host.name) for name in there}
    differing = [name for name, entry in there.items() if not _has(local[name], entry)]
    _check_disk(target, sum(there[name].size for name in differing), f"{host.name}: {path}")
    for batch in _batches([name for name in differing if there[name].size <= SMALL], there):
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


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _has(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size and _entry(path) == entry


def _listed(host: Host, path: str) -> dict[str, Entry]:
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


def _null_ended(names: Iterable[str]) -> bytes:
    return "".join(f"./{name}\0" for name in names).encode("utf-8", "surrogateescape")


def _batches(names: list[str], entries: dict[str, Entry]) -> Iterable[list[str]]:
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


def _mode(path: Path) -> int:
    """Whoever may not read a file here may not read it there."""
    return path.stat().st_mode & 0o755 | 0o600


def _send_together(
    host: Host, folder: str, files: dict[str, Path], on_bytes: OnBytes | None
) -> None:
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, path in files.items():
                with path.open("rb") as file:
                    info = tarfile.TarInfo(name)
                    info.size, info.mode = os.fstat(file.fileno()).st_size, _mode(path)
                    archive.addfile(info, file)
        size = stream.tell()
        stream.seek(0)
        _checked(host, script(UNPACK, folder), stream, size, on_bytes)


def _send_alone(
    host: Host, path: str, source: Path, entry: Entry, on_bytes: OnBytes | None
) -> None:
    partial = f"{path}{PARTIAL}{entry.sha256[:12]}"
    have = answers.read(int, host.run(script(SIZE, partial)).stdout, f"{host.name}: {partial}")
    if have > entry.size:
        host.run(["rm", "-f", "--", partial])
        have = 0
    with source.open("rb") as file:
        file.seek(have)
        line = script(APPEND, path, partial, entry.sha256, f"{_mode(source):o}")
        _checked(host, line, file, entry.size - have, on_bytes)


def _checked(host: Host, line: str, stream: IO[bytes], size: int, on_bytes: OnBytes | None) -> None:
    output = host.stream(Command(line, stream, size, on_bytes=on_bytes))
    if output.exit_code != 0:
        said = output.stderr_text.strip() or f"exit code {output.exit_code}"
        raise UserError(f"{host.name}: {host.step or 'sending'} failed: {said}")


def _fetch_together(
    host: Host,
    folder: str,
    entries: dict[str, Entry],
    local: dict[str, Path],
    on_bytes: OnBytes | None,
) -> None:
    total = sum(entry.size for entry in entries.values())

    def take(piece: bytes) -> None:
        check_room(stream.tell() + len(piece), total, f"{host.name}: {folder}")
        stream.write(piece)
        if on_bytes:
            on_bytes(len(piece))

    wanted = "".join(f"{entry.size}\0./{name}\0" for name, entry in entries.items())
    names = wanted.encode("utf-8", "surrogateescape")
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as stream:
        host.stream(Command(script(TOGETHER, folder), io.BytesIO(names), len(names), sink=take))
        stream.seek(0)
        for name, entry in entries.items():
            _place(host, name, local[name], stream.read(entry.size), entry)


def _place(host: Host, name: str, target: Path, content: bytes, entry: Entry) -> None:
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _changed(host, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}{PARTIAL}{entry.sha256[:12]}")
    with partial.open("wb") as file:
        file.write(content)
        _sync(file)
    partial.replace(target)


def _fetch_alone(
    host: Host, path: str, target: Path, entry: Entry, on_bytes: OnBytes | None
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}{PARTIAL}{entry.sha256[:12]}")
    have = partial.stat().st_size if partial.exists() else 0
    with partial.open("ab") as file:

        def take(piece: bytes) -> None:
            check_room(file.tell() + len(piece), entry.size, f"{host.name}: {path}")
            file.write(piece)
            if on_bytes:
                on_bytes(len(piece))

        line = script(REST, path, have + 1, max(entry.size - have, 0))
        host.stream(Command(line, sink=take))
        _sync(file)
    if not _has(partial, entry):
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _changed(host, path)
    partial.replace(target)


def _changed(host: Host, name: str) -> UserError:
    return UserError(
        f"{host.name}: {name} changed while it was fetched, or arrived damaged. Fetch again."
    )


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
