"""Health check: logs in to every worker each `watch_seconds` while mpirun runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from bootstrap.node.job import JobNode
from bootstrap.node.worker_nodes import WorkerNodes, each


class Heartbeat:
    """Checks the workers for the length of a block.

    Attributes:
        silent: names of the nodes that did not answer the last check.
        lost: names of the nodes that missed too many checks in a row.
    """

    def __init__(
        self, workers: WorkerNodes, nodes: Sequence[JobNode], seconds: float, misses: int
    ) -> None:
        self.silent: list[str] = []
        self.lost: list[str] = []
        self._workers, self._seconds, self._allowed = workers, seconds, misses
        self._nodes = [node for node in nodes if not workers.is_head(node)]
        self._missed = dict.fromkeys((node.name for node in self._nodes), 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Heartbeat:
        if self._nodes:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            for node, there in zip(
                self._nodes, each(self._workers.answers, self._nodes), strict=True
            ):
                self._missed[node.name] = 0 if there else self._missed[node.name] + 1
            self.silent = [name for name, count in self._missed.items() if count]
            self.lost = [name for name, count in self._missed.items() if count >= self._allowed]
