"""The processes that hold a rig up. Each carries a mark in its environment, and nothing else is
needed to find it again: no list of process ids that could be stale, none that a crash could lose.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.rig.commands import RigError

VARIABLE = "XEON_DIFFUSION_RIG"
SECONDS = 20.0


def start(mark: str, argv: Sequence[str], log: Path) -> int:
    """Start a process that outlives this one, and wait until it prints `ready`; its id."""
    reading, writing = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=output,
            start_new_session=True,
            env={**os.environ, VARIABLE: mark},
        )
    os.close(writing)
    # It is found by its mark from now on, also by another process: no object needs to watch it.
    process.returncode = 0
    with os.fdopen(reading) as lines:
        if lines.readline().strip() != "ready":
            end(mark)
            raise RigError(f"{mark} did not start: {log.read_text().strip()[-2000:]} ({log})")
    return process.pid


def find(mark: str) -> list[int]:
    """The ids of the processes with this mark, or with one that goes on after it with a slash.

    An empty mark finds those of all rigs.
    """
    wanted = re.compile(rf"{VARIABLE}={re.escape(mark)}(/.*)?" if mark else rf"{VARIABLE}=.*")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if any(wanted.fullmatch(variable) for variable in variables):
                found.append(int(entry.name))
    return found


def end(mark: str) -> None:
    """Kill the processes with this mark and return when nothing is left of them."""
    deadline = time.monotonic() + SECONDS
    while pids := find(mark):
        for pid in pids:
            # A host's first process takes all others along, and its parent, which carries the
            # mark, ends after it. So nothing is left for somebody else to reap.
            for victim in children(pid) or [pid]:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            # This process may be the parent of what carries the mark, or not.
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise RigError(f"{mark}: the processes {pids} do not end")
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The ids of a process's children."""
    with suppress(OSError):
        return [int(i) for i in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
