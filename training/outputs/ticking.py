"""A sign of life while something takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_SECONDS = 1.9
"""Nothing is silent for two seconds."""


@contextmanager
def ticking(
    notify: Callable[[str], None], text: str, seconds: float = TICK_SECONDS
) -> Iterator[None]:
    """Say `text`, and how long it has been so, every few seconds of the block.

    Args:
        notify: called from another thread.
    """
    ended, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not ended.wait(seconds):
            notify(f"{text}: {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
