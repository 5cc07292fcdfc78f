"""Fan-out: N nodes have a folder after about log2 N rounds, as each that has it sends it on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from bootstrap.errors import UserError

TRIES = 2
"""How often a node is sent to before it is left out: by two different senders."""


class FanOut:
    """Senders and receivers of one folder: decides who sends to whom, and does no I/O.

    A sender serves one receiver at a time: two would share its link and both be late.

    Attributes:
        left_out: receivers that two senders could not reach.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.left_out: list[str] = []
        self._idle = list(sources)
        self._waiting = list(targets)
        self._busy: set[tuple[str, str]] = set()
        self._failures: dict[str, list[str]] = {}
        self._suspects: dict[str, int] = {}

    @property
    def over(self) -> bool:
        """Whether every receiver has the tree or was left out."""
        return not self._waiting and not self._busy

    def start(self) -> list[tuple[str, str]]:
        """The pairs (sender, receiver) that can begin now."""
        begun = []
        # One that has failed before sends only where nobody better is free.
        for sender in sorted(self._idle, key=lambda name: self._suspects.get(name, 0)):
            receiver = self._receiver_for(sender)
            if receiver is not None:
                self._waiting.remove(receiver)
                self._idle.remove(sender)
                self._busy.add((sender, receiver))
                begun.append((sender, receiver))
        return begun

    def finished(self, sender: str, receiver: str) -> None:
        """The receiver has the tree: from now on it sends."""
        self._busy.remove((sender, receiver))
        self._idle += [sender, receiver]

    def failed(self, sender: str, receiver: str) -> None:
        """It did not get there: another sender tries once more."""
        self._busy.remove((sender, receiver))
        self._idle.append(sender)
        self._suspects[sender] = self._suspects.get(sender, 0) + 1
        failures = self._failures.setdefault(receiver, [])
        failures.append(sender)
        if len(failures) < TRIES:
            self._waiting.append(receiver)
        else:
            self.left_out.append(receiver)

    def _receiver_for(self, sender: str) -> str | None:
        """The first that this sender has not failed with, unless no other sender is left."""
        others = len(self._idle) + len(self._busy) > 1
        for receiver in self._waiting:
            if sender not in self._failures.get(receiver, []) or not others:
                return receiver
        return None


def run_fan_out(
    sources: Sequence[str], targets: Sequence[str], send: Callable[[str, str], None]
) -> dict[str, UserError]:
    """Run a fan-out, each transfer in a thread of its own.

    Args:
        sources: names of the nodes that have it.
        targets: names of the nodes that lack it.
        send: transfers from a sender to a receiver; raises UserError where that failed.

    Returns:
        By name, why a target was left out.
    """
    fan_out, failures = FanOut(sources, targets), dict[str, UserError]()
    running: dict[Future[None], tuple[str, str]] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as threads:
        while not fan_out.over:
            for pair in fan_out.start():
                running[threads.submit(send, *pair)] = pair
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                sender, receiver = running.pop(future)
                try:
                    future.result()
                    fan_out.finished(sender, receiver)
                except UserError as error:
                    failures[receiver] = error
                    fan_out.failed(sender, receiver)
    return {name: failures[name] for name in fan_out.left_out}
