"""The same steps on all nodes at once; what is done stays done, and one failure stops one node.

A step with a key writes that key to `done/<name>` on the node once it is through; a later run that
finds the same key there skips it.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from bootstrap.errors import Interrupted, UserError
from bootstrap.hosts import Host

Say = Callable[[str], None]
SayFor = Callable[[Host, str], None]


@dataclass(frozen=True)
class Step:
    """One thing to do on each node.

    Attributes:
        name: as the table shows it.
        run: does it; `say` shows a word on how far it is.
        key: what it was done for; the same key found on the node: it is skipped. None: always run.
        after_all: begins when every node is through with the steps before it.
        only: "head" or "workers"; None: every node.
        each_home: nodes that share another's home folder leave it to that one.
    """

    name: str
    run: Callable[[Host, Say], None]
    key: Callable[[Host], str] | None = None
    after_all: bool = False
    only: str | None = None
    each_home: bool = False


@dataclass(frozen=True)
class Together:
    """One thing done for all nodes that are left, by one thread; begins when all have come so far.

    Attributes:
        name: as the table shows it.
        run: does it; returns the nodes that failed, by name. `say` shows a word for one node.
        key: as in `Step`; skipped when every node has it.
    """

    name: str
    run: Callable[[Sequence[Host], SayFor], dict[str, UserError] | None]
    key: Callable[[Host], str] | None = None


class Watcher(Protocol):
    """Shows what happens; called from many threads."""

    def began(self, host: Host, step: str) -> None:
        """A node begins a step."""

    def said(self, host: Host, text: str) -> None:
        """A word on how far it is."""

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """A node is through with a step."""

    def skipped(self, host: Host, step: str) -> None:
        """It was done already."""


def run_steps(
    hosts: Sequence[Host], steps: Sequence[Step | Together], watcher: Watcher
) -> dict[str, UserError]:
    """Run the steps in order on every node.

    Returns:
        The nodes that failed, by name; those that cannot be reached are among them.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was running on the nodes is ended first.
    """
    failed = {host.name: host.unreachable for host in hosts if host.unreachable}
    head = hosts[0]
    try:
        with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as threads:
            for phase in _phases(steps):
                left = [host for host in hosts if host.name not in failed]
                if head.name in failed and any(_needs_head(step) for step in phase):
                    for host in left:
                        failed[host.name] = _without_head(head)
                    return failed
                if isinstance(phase[0], Together):
                    failed |= threads.submit(_together, left, phase[0], watcher).result()
                    continue
                work = [threads.submit(_alone, host, phase, host is head, watcher) for host in left]
                try:
                    wait(work)
                except KeyboardInterrupt:
                    for host in hosts:
                        host.interrupt()
                    raise
                for host, future in zip(left, work, strict=True):
                    error = future.result()
                    if error:
                        failed[host.name] = error
                for host in left:
                    if host.shares_home_of in failed and host.name not in failed:
                        failed[host.name] = UserError(
                            f"{host.name}: its home folder is {host.shares_home_of}'s, which failed"
                        )
    except KeyboardInterrupt:
        for host in hosts:
            host.interrupt()
        raise
    return failed


def is_done(host: Host, step: str, key: str) -> bool:
    """Whether a node has this step behind it, for this key."""
    found = host.run(["cat", _done_file(host, step)], check=False)
    return found.exit_code == 0 and found.stdout == key


def mark_done(host: Host, step: str, key: str) -> None:
    """Remember it on the node."""
    host.write(_done_file(host, step), key.encode(), 0o644)


def _done_file(host: Host, step: str) -> str:
    return f"{host.layout.done}/{re.sub(r'[^a-z0-9]+', '-', step.lower())}"


def _phases(steps: Sequence[Step | Together]) -> list[list[Step | Together]]:
    phases: list[list[Step | Together]] = []
    for step in steps:
        alone = isinstance(step, Together) or step.after_all
        if alone or not phases or isinstance(phases[-1][-1], Together):
            phases.append([step])
        else:
            phases[-1].append(step)
    return phases


def _needs_head(step: Step | Together) -> bool:
    return isinstance(step, Together) or step.after_all


def _without_head(head: Host) -> UserError:
    return UserError(f"waits for {head.name}, the head, which failed")


def _alone(
    host: Host, steps: Sequence[Step | Together], is_head: bool, watcher: Watcher
) -> UserError | None:
    for step in steps:
        assert isinstance(step, Step)
        if step.only == ("workers" if is_head else "head"):
            continue
        if step.each_home and host.shares_home_of is not None:
            continue
        error = _one(host, step, watcher)
        if error:
            return error
    return None


def _one(host: Host, step: Step, watcher: Watcher) -> UserError | None:
    host.step = step.name
    begun = time.monotonic()
    watcher.began(host, step.name)

    def work() -> bool:
        key = step.key(host) if step.key else None
        if key is not None and is_done(host, step.name, key):
            return False
        step.run(host, lambda text: watcher.said(host, text))
        if key is not None:
            mark_done(host, step.name, key)
        return True

    try:
        ran, error = work(), None
    except Exception as raised:
        ran, error = True, _as_user_error(host, raised)
    if ran:
        watcher.ended(host, step.name, time.monotonic() - begun, error)
    else:
        watcher.skipped(host, step.name)
    return error


def _together(hosts: Sequence[Host], step: Together, watcher: Watcher) -> dict[str, UserError]:
    begun = time.monotonic()
    for host in hosts:
        host.step = step.name
        watcher.began(host, step.name)
    failed: dict[str, UserError] = {}
    try:
        keys = {host.name: step.key(host) for host in hosts} if step.key else {}
        if keys and all(is_done(host, step.name, keys[host.name]) for host in hosts):
            for host in hosts:
                watcher.skipped(host, step.name)
            return failed
        failed = step.run(hosts, watcher.said) or {}
        for host in hosts:
            if host.name in keys and host.name not in failed:
                mark_done(host, step.name, keys[host.name])
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
