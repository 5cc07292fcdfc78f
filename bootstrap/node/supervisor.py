"""Keeps a run going on the head: `-m bootstrap.node.supervisor RUN_FOLDER/job.json [--detach]`.

With `--given` the job is read from standard input, and written there once no other run is going on.

Starts mpirun; when ranks, nodes or the network die, starts it again from the newest checkpoint on
the nodes that still answer, with the global batch, the learning rate and the sample order that the
run began with. SIGTERM ends the run with a checkpoint. It needs no connection to anybody.

What is noticed, and how:

* A rank that dies: the others say so and end (`training.ranks`); mpirun returns.
* A node or its network: every `watch_seconds` each node is logged in to; `misses` failures in a row
  count as lost. Sockets alone would take a quarter of an hour to notice.
* Ranks that hang on nodes that answer: the training's own `ddp_timeout`. It has to be longer than
  the first rank takes to draw samples, during which the others wait.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootstrap import atomic_files
from bootstrap.errors import UserError, exit_status
from bootstrap.node import checkpoints, detach, mpi, run_processes, run_state
from bootstrap.node.heartbeat import Heartbeat
from bootstrap.node.job import Job, JobNode, read_job
from bootstrap.node.process_identity import identity
from bootstrap.node.worker_nodes import WorkerNodes

USERS_ERROR = 2
"""Every rank's exit code where the same command would fail again."""
POLL_SECONDS = 0.5
BETWEEN_TRIES = 5.0
"""Seconds before the second try; each further one waits twice as long."""
LONGEST_PAUSE = 300.0


@dataclass
class Attempt:
    """How one mpirun ended.

    Attributes:
        phase: "done", "stopped" or "failed".
        reason: for people.
        again: whether another attempt may do better.
    """

    phase: str
    reason: str = ""
    again: bool = False


class Supervisor:
    """One run, from its first mpirun to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.workers = WorkerNodes(job)
        self.stop = threading.Event()
        self._log_start = 0
        self.state: dict[str, Any] = {
            "phase": "starting", "pid": os.getpid(), "process": identity(os.getpid()),
            "started": round(time.time(), 3), "tries": 0, "of_tries": job.tries,
            "nodes": [], "ranks": 0, "mpirun": None, "reason": "", "silent": [],
        }  # fmt: skip

    def note(self, **values: Any) -> None:
        """Change state.json."""
        self.state |= values
        run_state.write_state(self.job.folder, self.state)

    def say(self, text: str) -> None:
        """A line in supervisor.log."""
        print(f"[supervisor {time.strftime('%H:%M:%S')}] {text}", flush=True)

    def run(self) -> int:
        """Supervise the run until it has ended; returns the exit code."""
        try:
            attempt = self._until_the_end()
            self._end(attempt)
        except Exception as error:  # such as a full disk: no ranks may be left to themselves
            attempt = Attempt("failed", f"the supervisor itself failed: {error!r}")
            self._fail(attempt)
        if self.job.afterwards and not self.stop.is_set():
            self._afterwards()
        return 0 if attempt.phase in ("done", "stopped") else 1

    def _end(self, attempt: Attempt) -> None:
        phase = attempt.phase
        if phase == "failed":
            run_state.append_event(
                self.job.folder, "gave_up", text=attempt.reason, tries=self.state["tries"]
            )
        self.say(f"{phase}{': ' + attempt.reason if attempt.reason else ''}")
        self._note_end(attempt)

    def _note_end(self, attempt: Attempt) -> None:
        ended = round(time.time(), 3)
        self.note(phase=attempt.phase, reason=attempt.reason, mpirun=None, ended=ended)

    def _fail(self, attempt: Attempt) -> None:
        """End what runs on any node, and say so where it can be said."""
        with contextlib.suppress(Exception):
            traceback.print_exc()
        with contextlib.suppress(Exception):
            self.workers.end_processes(self.workers.reachable(self.job.nodes))
        with contextlib.suppress(Exception):
            self._end(attempt)
        with contextlib.suppress(Exception):  # no events can be written, a state may
            if self.state["phase"] != "failed":
                self._note_end(attempt)

    def _until_the_end(self) -> Attempt:
        failures, best = 0, self._step()
        while True:
            attempt = self._attempt()
            if not attempt.again:
                return attempt
            self._collect()
            step = self._step()
            failures = 1 if step > best else failures + 1
            best = max(step, best)
            self.say(attempt.reason)
            if self.stop.is_set():
                newest = f"checkpoint-{best} is the newest" if best >= 0 else "no checkpoint yet"
                return Attempt("stopped", f"{attempt.reason}; {newest}")
            if failures >= self.job.tries:
                reason = f"{failures} tries without a new checkpoint; the last: {attempt.reason}"
                return Attempt("failed", reason)
            self.note(phase="restarting", tries=failures, reason=attempt.reason, mpirun=None)
            self.stop.wait(min(BETWEEN_TRIES * 2 ** (failures - 1), LONGEST_PAUSE))

    def _has_begun(self) -> bool:
        """Whether what lies in the folder is this job's own.

        A try may die before the training has cleared away an older run of the same name, or has
        written the record of its own: to go on then would be to go on with the older run.
        """
        if self.job.resume:
            return True
        started = self.state["started"]
        with contextlib.suppress(OSError):
            if (self.job.folder / checkpoints.CONFIG).stat().st_mtime >= started:
                return True
            text = (self.job.folder / run_state.EVENTS).read_text("utf-8", "replace")
            return any(
                event["event"] == "start" and event["time"] >= started
                for event in run_state.read_events(text)
            )
        return False

    def _step(self) -> int:
        """This job's newest checkpoint's step on the head; -1: none."""
        if not self._has_begun():
            return -1
        step = checkpoints.newest(self.job.folder)["step"]
        return -1 if step is None else int(step)

    def _collect(self) -> None:
        """End what is left everywhere, and let the newest checkpoint win."""
        nodes = self.workers.reachable(self.job.nodes)
        for name in self.workers.end_processes(nodes):
            self.say(f"{name}: something of this run would not end there")
        source = self.workers.fetch_newest(nodes) if self._has_begun() else None
        if source is not None:
            self.say(f"{source} had the newest checkpoint: it is on the head now")

    def _attempt(self) -> Attempt:
        job = self.job
        nodes = self.workers.reachable(job.nodes)
        missing = [node.name for node in job.nodes if node not in nodes]
        ranks = sum(node.ranks for node in nodes)
        self.note(nodes=[node.name for node in nodes], ranks=ranks)
        if len(nodes) < job.minimum_nodes or not ranks:
            wanted = f"{job.minimum_nodes} are asked for" if ranks else "none of them with ranks"
            return Attempt(
                "failed", f"{len(nodes)} of {len(job.nodes)} nodes answer, {wanted} "
                f"(not: {', '.join(missing)})", again=True,
            )  # fmt: skip
        stuck = self.workers.end_processes(nodes)
        if stuck:
            return Attempt(
                "failed", f"something of this run will not end on {stuck[0]}", again=True
            )
        resume = self._has_begun()
        if resume:
            self.workers.fetch_newest(nodes)
        begun = resume and (job.folder / checkpoints.CONFIG).exists()
        if begun and self.state["phase"] == "restarting":
            self._tell_restart(nodes, missing, ranks)
        return self._mpirun(nodes, resume)

    def _tell_restart(self, nodes: list[JobNode], missing: list[str], ranks: int) -> None:
        step = max(0, self._step())
        without = f", without {', '.join(missing)}" if missing else ""
        text = (
            f"restarted from step {step} on {len(nodes)} of {len(self.job.nodes)} nodes{without} "
            f"({ranks} ranks): {self.state['reason']}"
        )
        run_state.append_event(
            self.job.folder, "restart", step=step, nodes=[node.name for node in nodes],
            ranks=ranks, tries=self.state["tries"], text=text,
        )  # fmt: skip
        self.say(text)

    def _mpirun(self, nodes: list[JobNode], resume: bool) -> Attempt:
        job = self.job
        nodefile = job.folder / "nodefile"
        atomic_files.write(nodefile, mpi.nodefile_text(nodes).encode())
        more = ["--resume_from_checkpoint=latest"] if resume else []
        words = mpi.command(job, nodes, str(nodefile), free_port(), more)
        self.say(f"$ {mpi.shown(words)}")
        if self.stop.is_set():
            return Attempt("stopped")
        self._log_start = self._log_size()
        process = subprocess.Popen(
            activated(job, words), stdin=subprocess.DEVNULL, start_new_session=True,
            cwd=job.root,
        )  # fmt: skip
        try:
            self.note(phase="training", mpirun=process.pid, silent=[])
            heartbeat = Heartbeat(self.workers, nodes, job.watch_seconds, job.misses)
            with heartbeat:
                return self._wait(process, nodes, heartbeat)
        finally:
            if process.poll() is None:  # something unforeseen: mpirun is not left to itself
                run_processes.end_tree(process.pid)
                process.wait()

    def _wait(
        self, process: subprocess.Popen[bytes], nodes: list[JobNode], heartbeat: Heartbeat
    ) -> Attempt:
        asked_at: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._ended(process.wait(POLL_SECONDS), nodes)
            if self.stop.is_set() and asked_at is None:
                self.note(phase="stopping")
                count = run_processes.signal_ranks(str(self.job.folder), signal.SIGTERM)
                if count:  # none: mpirun is still on its way to start them
                    asked_at = time.monotonic()
                    self.say(f"asked {count} ranks to end with a checkpoint")
            if heartbeat.silent != self.state["silent"]:
                self.note(silent=heartbeat.silent)
                self.say(f"without an answer: {', '.join(heartbeat.silent) or 'none'}")
            late = asked_at is not None and time.monotonic() - asked_at > self.job.stop_seconds
            if heartbeat.lost or late:
                run_processes.end_tree(process.pid)
                process.wait()
                if heartbeat.lost:
                    return Attempt("failed", f"lost {', '.join(heartbeat.lost)}", again=True)
                return Attempt("stopped", "the ranks did not end in time and were killed")

    def _ended(self, code: int, nodes: list[JobNode]) -> Attempt:
        left = self.workers.end_processes(self.workers.reachable(nodes))
        if left:
            self.say(f"something of this run would not end on {', '.join(left)}")
        if code == 0:
            return Attempt("done")
        if self.stop.is_set():
            return Attempt("stopped")
        if code == USERS_ERROR:
            return Attempt("failed", f"the training refused to start: {self._last()}")
        return Attempt("failed", f"mpirun ended with {code}: {self._last()}", again=True)

    def _last(self) -> str:
        """The last error that the training printed."""
        with contextlib.suppress(OSError), (self.job.folder / run_state.LOG).open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            if errors:
                return errors[0].removeprefix("error: ")
        return f"see {run_state.LOG}"

    def _log_size(self) -> int:
        path = self.job.folder / run_state.LOG
        return path.stat().st_size if path.exists() else 0

    def _afterwards(self) -> None:
        with contextlib.suppress(OSError):  # the log's disk may be full; the bill goes on
            self.say(f"$ {' '.join(self.job.afterwards)}")
        with contextlib.suppress(OSError):
            finished = subprocess.run(self.job.afterwards, stdin=subprocess.DEVNULL, check=False)
            self.note(afterwards=finished.returncode)


def activated(job: Job, words: Sequence[str]) -> list[str]:
    """A command in the environment that bootstrap has written for this node."""
    script = f"PATH={shlex.quote(f'{job.root}/env/bin')}:$PATH; export PATH; "
    if (Path(job.root) / "activate").exists():
        script = f". {shlex.quote(f'{job.root}/activate')}; "
    return ["bash", "--norc", "-c", f'{script}exec "$@"', "mpirun", *words]


def free_port() -> int:
    """A port that nothing listens on here: never the one that a dead try has left waiting."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


def supervise(path: Path, given: bytes | None = None) -> int:
    """Hold the cluster's lock and supervise the run of a job.json.

    Args:
        given: what to write there first, once the lock is held.

    Raises:
        UserError: another run is being supervised.
    """
    with run_state.held(path.absolute().parent.parent.parent) as lock:
        if lock is None:
            raise UserError("another training is running on this cluster: fab status names it.")
        if given is not None:
            atomic_files.write(path, given)
        supervisor = Supervisor(read_job(path))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop.set())
        supervisor.note()
        detach.ready()
        return supervisor.run()


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m bootstrap.node.supervisor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="RUN_FOLDER/job.json")
    parser.add_argument("--given", action="store_true", help="read the job, and write it there")
    parser.add_argument("--detach", action="store_true", help="return once it has started")
    asked = parser.parse_args(argv)
    given = sys.stdin.buffer.read() if asked.given else None
    if asked.detach and not detach.detach(asked.job.parent / run_state.LOG):
        return 0
    return supervise(asked.job, given)


if __name__ == "__main__":
    sys.exit(main())
