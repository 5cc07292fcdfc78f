"""Where this account keeps what can be made again: compiled code, digests of weight files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/xeon-diffusion, by default ~/.cache/xeon-diffusion; it may not exist."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "xeon-diffusion"
