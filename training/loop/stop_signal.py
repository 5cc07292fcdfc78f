"""SIGINT and SIGTERM end the loop with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class StopSignal:
    """What a signal handler has received.

    Attributes:
        number: the signal; None: none so far.
    """

    number: int | None = None

    @property
    def received(self) -> bool:
        """Whether the loop is to end after the step that it is in."""
        return self.number is not None


@contextlib.contextmanager
def caught_stop_signals() -> Iterator[StopSignal]:
    """Catch SIGINT and SIGTERM inside the block; a second one exits at once."""
    caught = StopSignal()

    def handle(number: int, frame: object) -> None:
        if caught.received:
            sys.exit(128 + number)
        caught.number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
