"""Memory that is let go while a run is prepared goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from training.machine.allocator import RETURNED, freed_memory_returned

STATUS = Path("/proc/self/status")
BLOCKS = 32

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)


def resident() -> int:
    """Bytes that this process has, beside those of files."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_blocks_between_others_are_given_back_at_once() -> None:
    with freed_memory_returned():
        blocks = [torch.ones(RETURNED) for _ in range(BLOCKS)]
        before = resident()
        del blocks[::2]
        assert before - resident() > 0.9 * BLOCKS / 2 * 4 * RETURNED


def test_what_is_free_goes_at_the_end_whatever_its_size() -> None:
    blocks = []
    with freed_memory_returned():
        before = resident()
        blocks = [torch.ones(RETURNED // 16) for _ in range(16 * BLOCKS)]
        del blocks[::2], blocks[::2]
    assert resident() - before < 0.3 * BLOCKS * 4 * RETURNED
