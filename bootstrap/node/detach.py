"""A process that outlives who started it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import UserError


def start_detached(words: Sequence[str], stdin: bytes, log: Path) -> None:
    """Start a command in a session of its own, its output in `log`; return once it is ready.

    It is given `--ready-fd N` and says that it is ready with `ready(N)`.

    Raises:
        UserError: it ended before it was ready; says what it printed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    reading, writing = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*words, f"--ready-fd={writing}"], stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True, pass_fds=[writing],
        )  # fmt: skip
    os.close(writing)
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(stdin)
    except BrokenPipeError:
        pass  # it has ended already, and said why
    with os.fdopen(reading, "rb") as pipe:
        if pipe.read() == b"ready":
            return
    process.wait()
    with log.open("rb") as file:
        file.seek(before)
        said = file.read().decode("utf-8", "replace").strip().removeprefix("error: ")
    raise UserError(said or f"it ended at once and printed nothing ({log}).")


def ready(descriptor: int | None) -> None:
    """Tell `start_detached` that it may return; None: this process was not started by it."""
    if descriptor is not None:
        os.write(descriptor, b"ready")
        os.close(descriptor)
