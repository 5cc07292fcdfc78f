"""What happens on each node: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live

from bootstrap.errors import UserError
from bootstrap.ssh.host import Host
from bootstrap.terminal import Rows, say_on

REFRESHES_PER_SECOND = 4


@dataclass
class Row:
    """One node's line."""

    step: str = ""
    text: str = ""
    mark: str = " "
    begun: float = field(default_factory=time.monotonic)
    seconds: float | None = None


class PlainLines:
    """A line whenever a node is through with a step: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def began(self, host: Host, step: str) -> None:
        """Nothing: its end will say."""

    def said(self, host: Host, text: str) -> None:
        """Nothing: the node's log has it."""

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """Say how it went."""
        self._say(f"{host.name}: {step}: {'FAILED' if error else 'done'} in {seconds:.1f} s")

    def _say(self, line: str) -> None:
        say_on(self._console, line)


class LiveTable:
    """Node, step, elapsed; one row per node."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._lock = threading.Lock()
        self._rows = {host.name: Row() for host in hosts}
        for host in hosts:
            if host.unreachable:
                self._rows[host.name] = Row("connect", "does not answer", "✗", seconds=0.0)

    def began(self, host: Host, step: str) -> None:
        """Its row names the step and counts."""
        with self._lock:
            self._rows[host.name] = Row(step)

    def said(self, host: Host, text: str) -> None:
        """Its row shows it."""
        with self._lock:
            self._rows[host.name].text = text

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """Its row stands still."""
        with self._lock:
            row = self._rows[host.name]
            row.mark, row.seconds = ("✗" if error else "✓"), seconds
            row.text = "failed" if error else ""

    def __rich__(self) -> Rows:
        """As rich draws it, several times per second."""
        table = Rows(box=None, pad_edge=False)
        for column in ("", "node", "step", "elapsed", ""):
            table.add_column(column, justify="right" if column == "elapsed" else "left")
        with self._lock:
            for name, row in self._rows.items():
                seconds = time.monotonic() - row.begun if row.seconds is None else row.seconds
                table.add(row.mark, name, row.step, f"{seconds:.0f} s", row.text)
        return table


@contextmanager
def step_progress(hosts: Sequence[Host], console: Console) -> Iterator[LiveTable | PlainLines]:
    """What `run_steps` tells about these nodes."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    table = LiveTable(hosts)
    with Live(table, console=console, refresh_per_second=REFRESHES_PER_SECOND):
        yield table


@contextmanager
def step_progress_on_terminal(hosts: Sequence[Host]) -> Iterator[LiveTable | PlainLines]:
    """The same on this process's standard output."""
    with step_progress(hosts, Console()) as watcher:
        yield watcher
