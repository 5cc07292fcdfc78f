"""One mpirun of a job, as a process on the head."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootstrap import atomic_files
from bootstrap.node import mpi, run_processes, run_state
from bootstrap.node.job import Job, JobNode


class Mpirun:
    """A running mpirun; it does not outlive the block that it is used in.

    Attributes:
        pid: mpirun's.
    """

    def __init__(self, job: Job, words: Sequence[str]) -> None:
        self._run = str(job.folder)
        self._log = job.folder / run_state.LOG
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._process = subprocess.Popen(
            activated(job, words), stdin=subprocess.DEVNULL, start_new_session=True, cwd=job.root
        )
        self.pid = self._process.pid

    def __enter__(self) -> Mpirun:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None: it still runs after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def ask_to_end(self) -> int:
        """SIGTERM to the ranks on the head, which end with a checkpoint; returns how many."""
        return run_processes.signal_ranks(self._run, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything that it has started on the head."""
        run_processes.end_tree(self.pid)
        self._process.wait()

    def last_error(self) -> str:
        """The first error that the training printed since this mpirun began."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            for line in log.read().decode("utf-8", "replace").splitlines():
                if line.startswith("error: "):
                    return line.removeprefix("error: ")
        return f"see {run_state.LOG}"


def words_of(job: Job, nodes: Sequence[JobNode], resume: bool) -> list[str]:
    """The mpirun command on `nodes`; writes the nodefile that it names."""
    nodefile = job.folder / "nodefile"
    atomic_files.write(nodefile, mpi.nodefile_text(nodes).encode())
    more = ["--resume_from_checkpoint=latest"] if resume else []
    return mpi.command(job, nodes, str(nodefile), free_port(), more)


def activated(job: Job, words: Sequence[str]) -> list[str]:
    """A command in the environment that bootstrap has written for this node."""
    script = f"PATH={shlex.quote(f'{job.layout.env}/bin')}:$PATH; export PATH; "
    if Path(job.layout.activate).exists():
        script = f". {shlex.quote(job.layout.activate)}; "
    return ["bash", "--norc", "-c", f'{script}exec "$@"', "mpirun", *words]


def free_port() -> int:
    """A port that nothing listens on here: never the one that a dead try has left waiting."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
