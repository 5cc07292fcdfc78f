"""What the C library does with memory that has been let go.

It keeps blocks of up to 32 MB for the next that asks, which a training step, where the same sizes
come again and again, is the faster for. What is let go while models are read and pictures encoded
never comes again: it would lie beside everything after it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of these settings (malloc.h)."""
KEPT = 2**25
"""Bytes: the largest block that glibc keeps, which it finds out itself where nobody sets it."""
RETURNED = 2**20
"""Bytes of the smallest block that is given back at once, meanwhile."""


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Give memory back to the system as soon as it is let go, inside the block and at its end.

    Where the C library is another than glibc, nothing is done.
    """
    try:
        library = ctypes.CDLL(None)
        set_option, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    set_option(MMAP_THRESHOLD, RETURNED)
    try:
        yield
    finally:
        set_option(MMAP_THRESHOLD, KEPT)
        set_option(TRIM_THRESHOLD, 2 * KEPT)
        trim(0)
