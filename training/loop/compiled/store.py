"""What is kept on disk of a compiled step, for later runs and the other ranks of a machine.

Inductor's own cache leaves out graphs that hold packed weights. Packing takes seconds; tracing,
writing and compiling code takes minutes, and the code holds no weights: it names them. So two files
are kept. `<graph>.json` is the code, under a digest of the graph itself. `<step>.json` says, under
a digest of all that decides the graph, which code that is and where its constants come from: a run
that finds both needs no graph. Inductor keeps the compiled kernels, which the code names by their
source, in the same folder.

What is kept is executed, so it must be this account's own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from training import atomic_files
from training.errors import UserError
from training.machine.cache_folder import cache_folder, is_foreign

KERNELS = "TORCHINDUCTOR_CACHE_DIR"


class CannotUse(Exception):
    """Why something that is kept is not used."""


def folder() -> Path:
    """Where code is kept."""
    return cache_folder() / "compiled"


def keep_kernels() -> None:
    """Have inductor keep compiled kernels beside the code: its own place is emptied at a reboot."""
    if os.environ.get(KERNELS) in (None, default_cache_dir()):
        os.environ[KERNELS] = str(folder() / "inductor")


def read(name: str) -> Any:
    """What is kept under a name; None: nothing is.

    Raises:
        CannotUse: it is damaged, or others may have written it.
    """
    path = _path(name)
    try:
        if not path.exists():
            return None
        for place in (path.parent, path):
            if is_foreign(place):
                raise CannotUse(f"{place} can be written by others than this account")
        found = json.loads(path.read_text(encoding="utf-8"))
        text, digest = found["kept"], found["sha256"]
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError
        return json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotUse(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotUse(f"{path} is damaged") from error


def write(name: str, kept: object) -> None:
    """Keep something under a name; where that fails, do not: the next run makes it again."""
    text = json.dumps(kept)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with suppress(UserError, OSError):
        atomic_files.write_text(_path(name), json.dumps({"sha256": digest, "kept": text}))
        _path(name).chmod(0o600)


def drop_kernel(path: str | None) -> bool:
    """Remove a damaged kernel, so that inductor compiles it again; whether there was one here."""
    kernel = Path(path) if path else None
    if kernel is None or not kernel.is_file() or not kernel.is_relative_to(os.environ[KERNELS]):
        return False
    kernel.unlink()
    return True


def _path(name: str) -> Path:
    return folder() / f"{name}.json"


@contextmanager
def held(name: str, notify: Callable[[str], None]) -> Iterator[bool]:
    """Hold a name, so that of several ranks one compiles and the others wait for it.

    The block is told whether it had to wait: then what it wants to make may be there.

    Args:
        notify: told if another process holds it.

    Raises:
        UserError: the store cannot be written.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if place.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "another account's")
        place.chmod(0o700)
        lock = (place / f"{name}.lock").open("a")
    except OSError as error:
        raise UserError(
            f"--frozen compiled: {place} cannot be written ({error.strerror}): set XDG_CACHE_HOME "
            "to a folder that can be, or use --frozen native."
        ) from error
    with lock:
        waited = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            notify("waiting for another process of this machine, which compiles the same step")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield waited
