"""Looks now and then whether nodes still answer, while something else is waited for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from bootstrap.node.job import JobNode
from bootstrap.node.worker_nodes import Peers, each


class Watch:
    """Watches nodes for the length of a block.

    Attributes:
        silent: names of nodes that did not answer the last look.
        lost: names of nodes that have missed too many looks in a row.
    """

    def __init__(self, peers: Peers, nodes: Sequence[JobNode], seconds: float, misses: int) -> None:
        self.silent: list[str] = []
        self.lost: list[str] = []
        self._peers, self._seconds, self._allowed = peers, seconds, misses
        self._nodes = [node for node in nodes if not peers.is_head(node)]
        self._missed = dict.fromkeys((node.name for node in self._nodes), 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        if self._nodes:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            for node, there in zip(
                self._nodes, each(self._peers.answers, self._nodes), strict=True
            ):
                self._missed[node.name] = 0 if there else self._missed[node.name] + 1
            self.silent = [name for name, count in self._missed.items() if count]
            self.lost = [name for name, count in self._missed.items() if count >= self._allowed]
