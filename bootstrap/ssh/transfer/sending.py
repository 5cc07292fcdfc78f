"""From the person's machine to a node."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.ssh.command import SPOOLED, Command, OnBytes, script
from bootstrap.ssh.local_files import PARTIAL, files_of
from bootstrap.ssh.transfer.listing import SMALL, Entry, batches, entry_of, listed

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

INCOMING = ".incoming"

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
REMOVE = 'cd -- "$1" && xargs -0 -r rm -f --'
SIZE = 'if [ -f "$1" ]; then wc -c < "$1"; else echo 0; fi'


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
    there = listed(host, path)
    here = {name: entry_of(found) for name, found in files.items()}
    differing = [name for name in files if there.get(name) != here[name]]
    for batch in batches([name for name in differing if here[name].size <= SMALL], here):
        _send_together(host, folder, {name: files[name] for name in batch}, on_bytes)
    for name in differing:
        if here[name].size > SMALL:
            _send_alone(host, f"{folder}/{name}", files[name], here[name], on_bytes)
    extra = [name for name in there if name not in files]
    if exact and extra and source.is_dir():
        host.run(script(REMOVE, folder), stdin=_null_ended(extra))


def _null_ended(names: Iterable[str]) -> bytes:
    return "".join(f"./{name}\0" for name in names).encode("utf-8", "surrogateescape")


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
