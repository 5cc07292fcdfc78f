"""The other nodes as the head sees them: do they answer, what do they hold, what is left there."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bootstrap.node import checkpoints, run_processes
from bootstrap.node.job import Job, JobNode

ANSWER_SECONDS = 20.0
COMMAND_SECONDS = 60.0
AT_ONCE = 32
Result = TypeVar("Result")


class WorkerNodes:
    """The nodes of a job, asked from the head."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.head = job.nodes[0]

    def is_head(self, node: JobNode) -> bool:
        """Whether this is the node that the supervisor runs on."""
        return node.name == self.head.name

    def ask(
        self, node: JobNode, words: Sequence[str], stdin: str = "", seconds: float = COMMAND_SECONDS
    ) -> str | None:
        """What a command prints on another node; None: it did not answer, or failed."""
        assert self.job.ssh is not None
        try:
            finished = subprocess.run(
                [self.job.ssh, node.address, shlex.join(words)],
                input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, OSError):
            return None
        return finished.stdout if finished.returncode == 0 else None

    def answers(self, node: JobNode) -> bool:
        """Whether a node can be logged in to, and its environment is there."""
        if self.is_head(node):
            return True
        return self.ask(node, ["test", "-x", self.job.python], seconds=ANSWER_SECONDS) is not None

    def reachable(self, nodes: Iterable[JobNode]) -> list[JobNode]:
        """Those of `nodes` that answer, in order."""
        nodes = list(nodes)
        return [node for node, yes in zip(nodes, each(self.answers, nodes), strict=True) if yes]

    def end_processes(self, nodes: Iterable[JobNode]) -> list[str]:
        """Kill what the run has left on `nodes`; returns the names of those where that failed."""
        run = str(self.job.folder)

        def end(node: JobNode) -> bool:
            if self.is_head(node):
                run_processes.end_all(run)
                return not run_processes.processes_of(run)
            words = [self.job.python, "-P", "-m", "bootstrap.node.run_processes", run]
            return self.ask(node, words) is not None

        nodes = list(nodes)
        return [node.name for node, done in zip(nodes, each(end, nodes), strict=True) if not done]

    def newest_on(self, node: JobNode) -> dict[str, Any] | None:
        """See `checkpoints.newest`; None: the node did not answer, or with something else."""
        folder = self.job.folder
        if self.is_head(node):
            return checkpoints.newest(folder)
        said = self.ask(
            node, [self.job.python, "-P", "-m", "bootstrap.node.checkpoints", "newest", str(folder)]
        )
        there = _object(said)
        return there if _names_a_checkpoint(there) else None

    def fetch_newest(self, nodes: Iterable[JobNode]) -> str | None:
        """Copy the newest checkpoint of `nodes` to the head, where the head's own is older.

        A checkpoint of another run under the same name is left where it is.

        Returns:
            The name of the node that it came from.
        """
        here = checkpoints.newest(self.job.folder)
        workers = [node for node in nodes if not self.is_head(node)]
        best, source = here["step"] if here["step"] is not None else -1, None
        for node, there in zip(workers, each(self.newest_on, workers), strict=True):
            if there is None or there["step"] is None:
                continue
            if there["step"] > best and here["run"] in (None, there["run"]):
                best, source = there["step"], node
        if source is None:
            return None
        words = [self.job.python, "-P", "-m", "bootstrap.node.checkpoints", "export"]
        said = self.ask(source, [*words, str(self.job.folder), str(best)])
        files = _object(said)
        if files is None:
            return None
        checkpoints.import_files(Path(self.job.folder), files)
        return source.name


def _object(said: str | None) -> dict[str, Any] | None:
    """What a node answered, if it is a JSON object."""
    try:
        found = json.loads(said or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _names_a_checkpoint(there: dict[str, Any] | None) -> bool:
    return there is not None and "run" in there and isinstance(there.get("step"), int | None)


def each(ask: Callable[[JobNode], Result], nodes: Sequence[JobNode]) -> list[Result]:
    """`ask` of every node, many at once."""
    if not nodes:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(nodes))) as pool:
        return list(pool.map(ask, nodes))
