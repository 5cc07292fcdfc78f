"""Memory that a kernel computes in."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_kept = threading.local()


def scratch(floats: int) -> Tensor:
    """float32 [at least `floats`], with anything in it, which this thread keeps.

    New pages would take a tenth as long as what is computed in them.
    """
    if not hasattr(_kept, "memory") or _kept.memory.numel() < floats:
        _kept.memory = torch.empty(floats, dtype=torch.float32)
    memory: Tensor = _kept.memory
    return memory
