"""Files that are either whole or absent, whatever kills the process."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from training.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REPLACED = re.compile(r"\.(.+)\.\d+\.old")
REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EIO, errno.ENOENT,
)  # fmt: skip


@contextlib.contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a `UserError` naming it."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number in FULL:
            raise UserError(
                f"{path}: the disk is full; nothing that was there before has been touched. "
                "Free some space and resume with --resume_from_checkpoint latest."
            ) from error
        if number in REFUSED:
            raise UserError(
                f"{path}: cannot be written ({os.strerror(number)}). "
                "Choose another --output_dir or fix its permissions."
            ) from error
        raise


def _error_number(error: Exception) -> int:
    """The system's number of an error; safetensors has it in its text alone. 0: none."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else 0


def ordinary_mode() -> int:
    """The permissions of a file that a program makes without a word about them."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def sync_directory(path: Path) -> None:
    """Make the names in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)`, sync what it wrote, and rename it to `path`.

    Raises:
        UserError: the disk is full or `path` cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors_named(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            temporary.chmod(ordinary_mode())  # safetensors makes its files private
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all (see `write_file`)."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data`, whole or not at all (see `write_file`)."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            stream.write(data)

    write_file(path, write)


def write_directory(path: Path, write: Callable[[Path], object]) -> None:
    """Like `write_file`, for a folder: `write(temporary)` fills a folder made for it.

    A folder already at `path` is replaced once the new one is complete on disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors_named(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                else:
                    sync_directory(file)
            sync_directory(temporary)
            _put_in_place(temporary, path)
            sync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(source: Path, path: Path) -> None:
    """Rename a folder to `path`; one that is there goes once it has worked."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    try:
        os.replace(source, path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was in the middle of writing, not what it was replacing.

    Folders that it had renamed while others were put in their place get their names back. Only for
    a `folder` that no other process writes.

    Raises:
        UserError: they cannot be removed.
    """
    with disk_errors_named(folder):
        for old in folder.glob(".*.old"):
            named = _REPLACED.fullmatch(old.name)
            if named and old.is_dir() and not old.is_symlink():
                if os.path.lexists(folder / named[1]):
                    shutil.rmtree(old)
                else:
                    old.rename(folder / named[1])
        sync_directory(folder)
        for path in folder.glob(".*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def move(source: Path, destination: Path) -> None:
    """Rename a file or folder within a file system, replacing what is there."""
    with disk_errors_named(destination):
        if destination.is_dir():
            _put_in_place(source, destination)
        else:
            os.replace(source, destination)
        sync_directory(destination.parent)
