"""Memory that is let go while a run is prepared goes back to the system.

Each is measured in a process of its own: one that has done much else has free memory to take from.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from training.machine.allocator import RETURNED, freed_memory_returned

STATUS = Path("/proc/self/status")
BLOCKS = 32
BYTES = BLOCKS * 4 * RETURNED

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)


def resident() -> int:
    """Bytes that this process has, beside those of files."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def in_a_new_process(measure: Callable[[], int]) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as new:
        return new.submit(measure).result()


def given_back_inside() -> int:
    with freed_memory_returned():
        blocks = [torch.ones(RETURNED) for _ in range(BLOCKS)]
        before = resident()
        del blocks[::2]
        return before - resident()


def left_at_the_end() -> int:
    with freed_memory_returned():
        before = resident()
        blocks = [torch.ones(RETURNED // 16) for _ in range(16 * BLOCKS)]
        del blocks[::2], blocks[::2]
    return resident() - before


def test_blocks_between_others_are_given_back_at_once() -> None:
    assert in_a_new_process(given_back_inside) > 0.9 * BYTES / 2


def test_what_is_free_goes_at_the_end_whatever_its_size() -> None:
    assert in_a_new_process(left_at_the_end) < 0.3 * BYTES
