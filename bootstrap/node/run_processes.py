"""The processes of one run on this node.

`python -m bootstrap.node.run_processes RUN_FOLDER` ends them.

They are found by the run's own mark in their environment (or in mpirun's words), never by a name
that something else may have too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bootstrap.node.mpi import RUN_VARIABLE

SECONDS = 10.0
PROXY = "hydra_pmi_proxy"


def processes_of(run: str) -> list[int]:
    """This account's processes on this node that belong to the run in folder `run`."""
    return _belonging(lambda pid: _is_rank(pid, run) or _is_launcher(pid, run))


def ranks_of(run: str) -> list[int]:
    """The ranks among them: mpirun, asked to end, would cut them off."""
    return _belonging(lambda pid: _is_rank(pid, run))


def _belonging(belongs: Callable[[int], bool]) -> list[int]:
    here = _network(os.getpid())
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (pid := int(path.name)) != os.getpid():
            with contextlib.suppress(OSError):
                mine = os.stat(path).st_uid == os.getuid()
                if mine and belongs(pid) and _network(pid) == here:
                    found.append(pid)
    return found


def _is_rank(pid: int, run: str) -> bool:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return f"{RUN_VARIABLE}={run}".encode() in variables


def _is_launcher(pid: int, run: str) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return (RUN_VARIABLE.encode(), run.encode()) in itertools.pairwise(words)


def _network(pid: int) -> str:
    """Hosts that share one /proc (network namespaces of a machine) are told apart by it."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _launchers(pids: Sequence[int]) -> list[int]:
    """The MPI proxies that started `pids`."""
    found = set()
    for pid in pids:
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            name = Path(f"/proc/{parent}/comm").read_text().strip()
        except (OSError, ValueError):
            continue
        if name == PROXY[:15]:
            found.add(parent)
    return sorted(found)


def signal_ranks(run: str, number: int) -> int:
    """Send a signal to each of the run's ranks here; returns how many there were."""
    sent = 0
    for pid in ranks_of(run):
        try:
            os.kill(pid, number)
            sent += 1
        except ProcessLookupError:
            continue
    return sent


def end_all(run: str, seconds: float = SECONDS) -> int:
    """Kill the run's processes here and wait until they are gone; returns how many there were."""
    ended: set[int] = set()
    end = time.monotonic() + seconds
    while pids := processes_of(run):
        for pid in [*pids, *_launchers(pids)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        ended.update(pids)
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return len(ended)


def main(argv: Sequence[str] | None = None) -> int:
    """End what is left of a run here; 1 if something would not go."""
    (run,) = sys.argv[1:] if argv is None else argv
    print(end_all(run))
    return 1 if processes_of(run) else 0


if __name__ == "__main__":
    sys.exit(main())
