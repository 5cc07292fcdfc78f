"""Where this account keeps what can be made again: compiled code, digests of weight files."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/xeon-diffusion, by default ~/.cache/xeon-diffusion; it may not exist.

    An account without a home folder has one among the temporary files.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "xeon-diffusion"
    try:
        return Path.home() / ".cache" / "xeon-diffusion"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"xeon-diffusion-{os.getuid()}"


def is_foreign(path: Path) -> bool:
    """Whether another account may have written a file, or what lies in a folder.

    Raises:
        OSError: it cannot be looked at.
    """
    found = path.stat()
    return found.st_uid != os.getuid() or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
