"""The same steps on all nodes at once; one failure stops one node.

Every step is run every time, and leaves alone by itself what is done.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bootstrap.errors import Interrupted, UserError
from bootstrap.ssh.host import Host

Say = Callable[[str], None]
SayFor = Callable[[Host, str], None]
SharedHomes = dict[str, str]
"""Nodes that have the very same home folder as an earlier one, which is set up in their place."""


@dataclass(frozen=True)
class Step:
    """One thing to do on each node.

    Attributes:
        name: as the table shows it.
        run: does it; `say` shows a word on how far it is.
        after_all: begins when every node is through with the steps before it.
        each_home: nodes that share another's home folder leave it to that one.
    """

    name: str
    run: Callable[[Host, Say], None]
    after_all: bool = False
    each_home: bool = False


@dataclass(frozen=True)
class ClusterStep:
    """One thing done for all nodes that are left, by one thread; begins when all have come so far.

    Attributes:
        name: as the table shows it.
        run: does it; returns the nodes that failed, by name. `say` shows a word for one node.
    """

    name: str
    run: Callable[[Sequence[Host], SayFor], dict[str, UserError] | None]


class StepListener(Protocol):
    """Shows what happens; called from many threads."""

    def began(self, host: Host, step: str) -> None:
        """A node begins a step."""

    def said(self, host: Host, text: str) -> None:
        """A word on how far it is."""

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """A node is through with a step."""


def run_steps(
    hosts: Sequence[Host],
    steps: Sequence[Step | ClusterStep],
    watcher: StepListener,
    failed: dict[str, UserError] | None = None,
    homes: SharedHomes | None = None,
) -> dict[str, UserError]:
    """Run the steps in order on every node.

    Args:
        failed: nodes that have failed before, and are left alone.
        homes: filled by one of the steps.

    Returns:
        The nodes that failed, by name; those that cannot be reached are among them.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was running on the nodes is ended first.
    """
    failed = {host.name: host.unreachable for host in hosts if host.unreachable} | (failed or {})
    homes = {} if homes is None else homes
    head = hosts[0]
    with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as threads:
        try:
            for phase in _phases(steps):
                left = [host for host in hosts if host.name not in failed]
                if head.name in failed and any(_needs_head(step) for step in phase):
                    return failed | {host.name: without_head(head) for host in left}
                if isinstance(phase[0], ClusterStep):
                    failed |= threads.submit(_watched, left, phase[0], watcher).result()
                    continue
                work = [threads.submit(_alone, host, phase, watcher, homes) for host in left]
                for host, future in zip(left, work, strict=True):
                    error = future.result()
                    if error:
                        failed[host.name] = error
                for name, owner in homes.items():
                    if owner in failed and name not in failed:
                        failed[name] = UserError(
                            f"{name}: its home folder is {owner}'s, which failed"
                        )
        except KeyboardInterrupt:
            # In here, as leaving waits for the threads, and they for what runs on the nodes.
            for host in hosts:
                host.interrupt()
            raise
    return failed


def _phases(steps: Sequence[Step | ClusterStep]) -> list[list[Step | ClusterStep]]:
    phases: list[list[Step | ClusterStep]] = []
    for step in steps:
        alone = isinstance(step, ClusterStep) or step.after_all
        if alone or not phases or isinstance(phases[-1][-1], ClusterStep):
            phases.append([step])
        else:
            phases[-1].append(step)
    return phases


def _needs_head(step: Step | ClusterStep) -> bool:
    return isinstance(step, ClusterStep) or step.after_all


def without_head(head: Host) -> UserError:
    """What is wrong with a node where nothing is but the head."""
    return UserError(f"waits for {head.name}, the head, which failed")


def _alone(
    host: Host, steps: Sequence[Step | ClusterStep], watcher: StepListener, homes: SharedHomes
) -> UserError | None:
    for step in steps:
        assert isinstance(step, Step)
        if step.each_home and host.name in homes:
            continue
        if failed := _watched([host], step, watcher):
            return failed[host.name]
    return None


def _watched(
    hosts: Sequence[Host], step: Step | ClusterStep, watcher: StepListener
) -> dict[str, UserError]:
    """Do a step; returns the nodes that failed, by name."""
    begun = time.monotonic()
    hosts = [host.during(step.name) for host in hosts]
    for host in hosts:
        watcher.began(host, step.name)
    failed: dict[str, UserError] = {}
    try:
        if isinstance(step, ClusterStep):
            failed = step.run(hosts, watcher.said) or {}
        else:
            step.run(hosts[0], partial(watcher.said, hosts[0]))
    except Exception as raised:
        failed = {host.name: _as_user_error(host, raised) for host in hosts}
    for host in hosts:
        watcher.ended(host, step.name, time.monotonic() - begun, failed.get(host.name))
    return failed


def _as_user_error(host: Host, error: Exception) -> UserError:
    host.log("".join(traceback.format_exception(error)))
    if isinstance(error, Interrupted | UserError):
        return error
    return UserError(
        f"{host.name}: {host.step} failed unexpectedly ({type(error).__name__}: {error});"
        " its log has all of it"
    )
