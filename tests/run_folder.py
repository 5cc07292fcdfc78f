"""What a training has left in its folder."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


def learned_rows(folder: Path) -> Tensor:
    """The rows of the word that a run has learned, float32 [vectors, width]."""
    return load_file(folder / "learned_embeds.safetensors")["<new>"]


def run_record(folder: Path) -> dict[str, Any]:
    """What a run notes of itself when it starts."""
    return dict(tomllib.loads((folder / "config.toml").read_text())["run"])
