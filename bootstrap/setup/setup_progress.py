"""What happens on each node: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from bootstrap.errors import UserError
from bootstrap.ssh.host import Host
from bootstrap.terminal import column, in_a_line, say_on

REFRESHES_PER_SECOND = 4


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
        how = "FAILED" if error else "done"
        say_on(self._console, f"{host.name}: {step}: {how} in {seconds:.1f} s")


class LiveTable(Progress):
    """Mark, node, step, elapsed and a word on it; one row per node."""

    def __init__(self, hosts: Sequence[Host], console: Console | None = None) -> None:
        columns = (
            column("{task.fields[mark]}"), column("{task.description}"),
            column("{task.fields[step]}"), column("{task.elapsed:.0f} s"),
            column("{task.fields[text]}"),
        )  # fmt: skip
        super().__init__(*columns, console=console, refresh_per_second=REFRESHES_PER_SECOND)
        self._rows = {
            host.name: self.add_task(in_a_line(host.name), mark=" ", step="", text="")
            for host in hosts
        }
        for host in hosts:
            if host.unreachable:
                self.began(host, "connect")
                self._end(host, "✗", "does not answer")

    def began(self, host: Host, step: str) -> None:
        """Its row names the step and counts."""
        self.reset(self._rows[host.name], mark=" ", step=in_a_line(step), text="")

    def said(self, host: Host, text: str) -> None:
        """Its row shows it."""
        self.update(self._rows[host.name], text=in_a_line(text))

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """Its row stands still."""
        self._end(host, "✗" if error else "✓", "failed" if error else "")

    def _end(self, host: Host, mark: str, text: str) -> None:
        self.stop_task(self._rows[host.name])
        self.update(self._rows[host.name], mark=mark, text=text)


@contextmanager
def step_progress(
    hosts: Sequence[Host], console: Console | None = None
) -> Iterator[LiveTable | PlainLines]:
    """What `run_steps` tells about these nodes; without a console, on standard output."""
    console = console or Console()
    if not console.is_terminal:
        yield PlainLines(console)
        return
    with LiveTable(hosts, console) as table:
        yield table
