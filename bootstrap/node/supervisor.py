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
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from bootstrap import atomic_files
from bootstrap.errors import UserError, exit_status
from bootstrap.node import checkpoints, detach, mpi, mpirun, run_state
from bootstrap.node.heartbeat import Heartbeat
from bootstrap.node.job import Job, JobNode, read_job
from bootstrap.node.mpirun import Mpirun
from bootstrap.node.process_identity import identity
from bootstrap.node.restart_policy import Attempt, RestartPolicy, outcome
from bootstrap.node.run_state import Journal
from bootstrap.node.worker_nodes import WorkerNodes

POLL_SECONDS = 0.5


class Supervisor:
    """One run, from its first mpirun to its end: examine the nodes, train, decide, again."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.workers = WorkerNodes(job)
        self.stop = threading.Event()
        self.journal = Journal(job.folder, {
            "phase": "starting", "pid": os.getpid(), "process": identity(os.getpid()),
            "started": round(time.time(), 3), "tries": 0, "of_tries": job.tries,
            "nodes": [], "ranks": 0, "mpirun": None, "reason": "", "silent": [],
        })  # fmt: skip

    def run(self) -> int:
        """Supervise the run until it has ended; returns the exit code."""
        try:
            attempt = self._until_the_end()
            self.journal.end(attempt.phase, attempt.reason)
        except Exception as error:  # such as a full disk: no ranks may be left to themselves
            attempt = Attempt("failed", f"the supervisor itself failed: {error!r}")
            with contextlib.suppress(Exception):
                traceback.print_exc()
            with contextlib.suppress(Exception):
                self.workers.end_processes(self.workers.reachable(self.job.nodes))
            self.journal.end_somehow(attempt.phase, attempt.reason)
        if self.job.afterwards and not self.stop.is_set():
            self._afterwards()
        return 0 if attempt.phase in ("done", "stopped") else 1

    def _until_the_end(self) -> Attempt:
        policy = RestartPolicy(self.job.tries, self._step())
        while True:
            attempt = self._attempt()
            if not attempt.again:
                return attempt
            self._collect()
            policy = policy.after_failure(self._step())
            self.journal.say(attempt.reason)
            if self.stop.is_set():
                return Attempt("stopped", f"{attempt.reason}; {policy.newest}")
            if policy.gives_up:
                last = f"{policy.failures} tries without a new checkpoint; the last: "
                return Attempt("failed", last + attempt.reason)
            self.journal.note(
                phase="restarting", tries=policy.failures, reason=attempt.reason, mpirun=None
            )
            self.stop.wait(policy.pause)

    def _has_begun(self) -> bool:
        """Whether what lies in the folder is this job's own.

        A try may die before the training has cleared away an older run of the same name, or has
        written the record of its own: to go on then would be to go on with the older run.
        """
        if self.job.resume:
            return True
        started = self.journal.state["started"]
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
        step = checkpoints.newest(self.job.folder)["step"] if self._has_begun() else None
        return -1 if step is None else int(step)

    def _collect(self) -> None:
        """End the run's processes on every node, and copy the newest checkpoint to the head."""
        nodes = self.workers.reachable(self.job.nodes)
        for name in self.workers.end_processes(nodes):
            self.journal.say(f"{name}: a process of this run could not be ended there")
        source = self.workers.fetch_newest(nodes) if self._has_begun() else None
        if source is not None:
            self.journal.say(f"{source} had the newest checkpoint: it is on the head now")

    def _attempt(self) -> Attempt:
        """Train on the nodes that answer, if they are enough and nothing old runs on them."""
        job = self.job
        nodes = self.workers.reachable(job.nodes)
        missing = [node.name for node in job.nodes if node not in nodes]
        ranks = sum(node.ranks for node in nodes)
        self.journal.note(nodes=[node.name for node in nodes], ranks=ranks)
        if len(nodes) < job.minimum_nodes or not ranks:
            wanted = f"{job.minimum_nodes} are required" if ranks else "none of them with ranks"
            return Attempt(
                "failed", f"{len(nodes)} of {len(job.nodes)} nodes answer, {wanted} "
                f"(not: {', '.join(missing)})", again=True,
            )  # fmt: skip
        stuck = self.workers.end_processes(nodes)
        if stuck:
            reason = f"something of this run will not end on {stuck[0]}"
            return Attempt("failed", reason, again=True)
        resume = self._has_begun()
        if resume:
            self.workers.fetch_newest(nodes)
        begun = resume and (job.folder / checkpoints.CONFIG).exists()
        if begun and self.journal.state["phase"] == "restarting":
            self._tell_restart(nodes, missing, ranks)
        return self._train(nodes, resume)

    def _tell_restart(self, nodes: list[JobNode], missing: list[str], ranks: int) -> None:
        step, state = max(0, self._step()), self.journal.state
        without = f", without {', '.join(missing)}" if missing else ""
        text = (
            f"restarted from step {step} on {len(nodes)} of {len(self.job.nodes)} nodes{without} "
            f"({ranks} ranks): {state['reason']}"
        )
        names = [node.name for node in nodes]
        self.journal.event(
            "restart", step=step, nodes=names, ranks=ranks, tries=state["tries"], text=text
        )
        self.journal.say(text)

    def _train(self, nodes: list[JobNode], resume: bool) -> Attempt:
        job = self.job
        words = mpirun.words_of(job, nodes, resume)
        self.journal.say(f"$ {mpi.shown(words)}")
        if self.stop.is_set():
            return Attempt("stopped")
        with Mpirun(job, words) as process:
            self.journal.note(phase="training", mpirun=process.pid, silent=[])
            with Heartbeat(self.workers, nodes, job.watch_seconds, job.misses) as heartbeat:
                return self._wait(process, nodes, heartbeat)

    def _wait(self, process: Mpirun, nodes: list[JobNode], heartbeat: Heartbeat) -> Attempt:
        asked_at: float | None = None
        while True:
            code = process.wait(POLL_SECONDS)
            if code is not None:
                left = self.workers.end_processes(self.workers.reachable(nodes))
                if left:
                    names = ", ".join(left)
                    self.journal.say(f"processes of this run could not be ended on {names}")
                return outcome(code, self.stop.is_set(), process.last_error())
            if self.stop.is_set() and asked_at is None:
                self.journal.note(phase="stopping")
                count = process.ask_to_end()
                if count:  # none: mpirun is still on its way to start them
                    asked_at = time.monotonic()
                    self.journal.say(f"asked {count} ranks to end with a checkpoint")
            if heartbeat.silent != self.journal.state["silent"]:
                self.journal.note(silent=heartbeat.silent)
                self.journal.say(f"without an answer: {', '.join(heartbeat.silent) or 'none'}")
            if heartbeat.lost:
                process.kill()
                return Attempt("failed", f"lost {', '.join(heartbeat.lost)}", again=True)
            if asked_at is not None and time.monotonic() - asked_at > self.job.stop_seconds:
                process.kill()
                return Attempt("stopped", "the ranks did not end in time and were killed")

    def _afterwards(self) -> None:
        with contextlib.suppress(OSError):  # the log's disk may be full; the bill goes on
            self.journal.say(f"$ {' '.join(self.job.afterwards)}")
        with contextlib.suppress(OSError):
            finished = subprocess.run(self.job.afterwards, stdin=subprocess.DEVNULL, check=False)
            self.journal.note(afterwards=finished.returncode)


def supervise(path: Path, given: bytes | None = None, ready_fd: int | None = None) -> int:
    """Hold the cluster's lock and supervise the run of a job.json.

    Args:
        given: what to write there first, once the lock is held.
        ready_fd: see `detach.ready`.

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
        supervisor.journal.note()
        detach.ready(ready_fd)
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
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    given = sys.stdin.buffer.read() if asked.given else None
    if asked.detach:
        # This very command again, in whatever way Python was started for it.
        words = [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--detach")]
        detach.start_detached(words, given or b"", asked.job.parent / run_state.LOG)
        return 0
    return supervise(asked.job, given, asked.ready_fd)


if __name__ == "__main__":
    sys.exit(main())
