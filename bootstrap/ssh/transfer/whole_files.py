"""Files that are written and read at once."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.ssh.command import Command, script
from bootstrap.ssh.command_output import TEXT_LIMIT, Lines
from bootstrap.ssh.transfer.limits import Limited

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

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
