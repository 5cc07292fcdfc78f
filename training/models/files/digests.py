"""Digests of weights, remembered by what the file system says of the files that hold them.

To hash the gigabytes of a model takes longer than to map its files. So a digest is kept beside
path, size, inode and times of these files, and is found again while all of them are the same.

There is one small file per model and form, written whole or not at all: ranks that write the same
one at once write the same content. An entry that is torn, or of anything else, counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import atomic_files
from training.errors import UserError
from training.machine.cache_folder import cache_folder

SETTLED_NANOSECONDS = 2_000_000_000
"""A file that changed less than this ago may change again without its times showing it."""
KEPT = 100
"""Digests that are remembered."""
FileState = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Source:
    """The files that weights were read from, as they were before.

    Attributes:
        files: of each its path, size, inode, and when content and inode changed, in nanoseconds.
        form: what else the weights in memory depend on: dtype, versions of the loaders.
    """

    files: tuple[FileState, ...]
    form: tuple[str, ...] = ()


def source_of(files: Iterable[Path], form: Sequence[str] = ()) -> Source | None:
    """To be taken before `files` are read; None: one cannot be looked at, or there is none."""
    try:
        states = tuple(_state(path) for path in sorted(files))
    except OSError:
        return None
    return Source(states, tuple(form)) if states else None


def remembered(
    source: Source | None,
    form: Sequence[str],
    compute: Callable[[], str],
    clock: Callable[[], int] = time.time_ns,
) -> str:
    """The digest of weights from `source`: what is remembered, or else `compute()`, kept for later.

    Args:
        form: what happened to the weights since they were read.
        clock: now, in nanoseconds; files that changed just before are not remembered.
    """
    if source is None:
        return compute()
    key = [list(map(list, source.files)), [*source.form, *form]]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = cache_folder() / "digests" / f"{name}.json"
    if (found := _read(path, key)) is not None:
        return found
    digest = compute()
    newest = max(max(state[3:]) for state in source.files)
    if newest < clock() - SETTLED_NANOSECONDS and _unchanged(source):
        entry = {"key": key, "digest": digest, "check": _check(key, digest)}
        # Where it cannot be kept, it is computed again.
        with contextlib.suppress(OSError, UserError):
            atomic_files.write_text(path, json.dumps(entry))
            _forget_oldest(path.parent)
    return digest


def _state(path: Path) -> FileState:
    """A link's is that of the file it leads to: so the hub's cache has them."""
    resolved = path.resolve()
    about = resolved.stat()
    return str(resolved), about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns


def _unchanged(source: Source) -> bool:
    try:
        return all(_state(Path(state[0])) == state for state in source.files)
    except OSError:
        return False


def _forget_oldest(folder: Path) -> None:
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        path.unlink(missing_ok=True)


def _read(path: Path, key: object) -> str | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        digest = entry["digest"]
        whole = entry["key"] == key and entry["check"] == _check(key, digest)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if whole and isinstance(digest, str) else None


def _check(key: object, digest: object) -> str:
    return hashlib.sha256(json.dumps([key, digest]).encode()).hexdigest()
