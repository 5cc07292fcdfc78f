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

import psutil

from bootstrap.node.mpi import RUN_VARIABLE

SECONDS = 10.0
PROXY = "hydra_pmi_proxy"


def processes_of(run: str) -> list[int]:
    """This account's processes on this node that belong to the run in folder `run`."""
    return belonging(lambda process: _is_rank(process, run) or _is_launcher(process, run))


def ranks_of(run: str) -> list[int]:
    """The ranks among them: mpirun, asked to end, would cut them off."""
    return belonging(lambda process: _is_rank(process, run))


def belonging(belongs: Callable[[psutil.Process], bool]) -> list[int]:
    """Those of this account's processes on this node, other than this one, that `belongs` wants."""
    me = os.getpid()
    here, found = _network(me), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has just ended, or is not to be looked into
            mine = process.pid != me and process.uids().real == os.getuid()
            if mine and belongs(process) and _network(process.pid) == here:
                found.append(process.pid)
    return found


def _is_rank(process: psutil.Process, run: str) -> bool:
    return process.environ().get(RUN_VARIABLE) == run


def _is_launcher(process: psutil.Process, run: str) -> bool:
    return (RUN_VARIABLE, run) in itertools.pairwise(process.cmdline())


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
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid).parent()
            if parent and parent.name() == PROXY:
                found.add(parent.pid)
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


def end_all(run: str) -> int:
    """Kill the run's processes here and wait until they are gone; returns how many there were."""
    ended: set[int] = set()
    end = time.monotonic() + SECONDS
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


def end_tree(pid: int) -> None:
    """Kill a process and everything that it has started, whatever groups those have moved to."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (*root.children(recursive=True), root):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    """End what is left of a run here; 1 if something would not go."""
    (run,) = sys.argv[1:] if argv is None else argv
    print(end_all(run))
    return 1 if processes_of(run) else 0


if __name__ == "__main__":
    sys.exit(main())
