"""A process that outlives who started it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from bootstrap.errors import UserError

_READY: list[int] = []


def detach(log: Path) -> bool:
    """Go on in a process of its own session, whose output goes to `log`.

    Returns:
        True in that process; False in the first one, once the other has called `ready`.

    Raises:
        UserError: the other process ended before it was ready; says what it printed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            if pipe.read() == b"ready":
                return False
        with log.open("rb") as file:
            file.seek(before)
            said = file.read().decode("utf-8", "replace").strip().removeprefix("error: ")
        raise UserError(said or f"it ended at once, without a word in {log}.")
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.closerange(3, writing)
    os.closerange(writing + 1, 256)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    _READY.append(writing)
    return True


def ready() -> None:
    """Tell who started this process that it may go; without effect where it was not detached."""
    while _READY:
        writing = _READY.pop()
        os.write(writing, b"ready")
        os.close(writing)
