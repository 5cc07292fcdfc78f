"""One node to run commands on."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bootstrap import urls
from bootstrap.errors import CommandFailed, ConnectionLost, UserError
from bootstrap.inventory.inventory import Node
from bootstrap.paths import Layout, node_root
from bootstrap.ssh import transfer
from bootstrap.ssh.command import SPOOLED, Command, CommandResult, OnLine, one_line, script
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.transport import Broken, LocalTransport, Transport

LAST_LINES = 12
LOGGED_CHARACTERS = 500
Ask = Callable[[str], bool]


def _no_log(line: str) -> None:
    del line


@dataclass(frozen=True, eq=False)
class Host:
    """One node.

    Attributes:
        node: its place in the inventory.
        layout: where things lie on it.
        transport: runs commands there.
        step: what is being done on it, for messages.
        log: told every command and every line that it prints.
        unreachable: why nothing can be run on it; None: it answers.
    """

    node: Node
    layout: Layout
    transport: Transport
    step: str = ""
    log: OnLine = _no_log
    unreachable: UserError | None = None
    _hidden: set[str] = field(default_factory=set)

    write = transfer.write
    read = transfer.read
    read_lines = transfer.read_lines
    send = transfer.send
    fetch = transfer.fetch

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name

    @property
    def python(self) -> str:
        """The interpreter of the node's environment, by its absolute path."""
        return self.layout.python

    def during(self, step: str) -> Host:
        """The same node while a step is being done."""
        return dataclasses.replace(self, step=step)

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on *** stands for these in the lines and errors of commands, and in the log."""
        self._hidden.update(secrets)

    def _without_hidden(self, text: str) -> str:
        for secret in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _shown(self, text: str) -> str:
        return urls.shown(self._without_hidden(text))

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        on_line: OnLine | None = None,
        check: bool = True,
        keep: bool = True,
    ) -> CommandResult:
        """Run a command and wait for it.

        Args:
            command: a shell line, or words.
            stdin: what it reads; the one way for secrets, which are seen in no process list.
            timeout: seconds until it is ended there.
            on_line: told each line, of both outputs, as it comes.
            check: a code other than 0 is an error.
            keep: its standard output is wanted at the end; else `on_line` has had it all, and it
                may be without end.

        Raises:
            CommandFailed: it failed, and `check`.
            TimedOut, ConnectionLost, Interrupted: it was cut short.
            UserError: it was not even begun, or printed more than is kept.
        """
        line = one_line(command)
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as source:
            source.write(stdin)
            source.seek(0)
            output = self.stream(
                Command(line, source, len(stdin), timeout=timeout, on_line=on_line, keep=keep)
            )
        finished = CommandResult(
            output.exit_code, output.stdout_text, self._shown(output.stderr_text)
        )
        if check and finished.exit_code != 0:
            said = self._shown(finished.stdout + finished.stderr).splitlines()[-LAST_LINES:]
            what = self.step or self._shown(line)
            raise CommandFailed(self.name, what, finished.exit_code, "\n".join(said))
        return finished

    def exists(self, path: str, kind: Literal["e", "d", "f"] = "e") -> bool:
        """Whether there is such a path; as `test` has it, "d": a folder, "f": a file."""
        line = script(f'test -{kind} "$1"', path)
        return self.run(line, check=False).exit_code == 0

    def text_of(self, path: str) -> str:
        """A small file's text; "" where there is none that can be read."""
        return self.run(script('cat "$1" 2>/dev/null || :', path)).stdout

    def stream(self, command: Command) -> Output:
        """Run a command and hand on what it prints until it has ended.

        Raises:
            TimedOut, ConnectionLost, Interrupted: it was cut short.
            UserError: it was not even begun, or printed more than is taken.
        """
        if self.unreachable:
            raise self.unreachable

        def log(text: str) -> None:
            self.log(self._shown(text))

        def tell(text: str) -> None:
            if command.on_line:
                command.on_line(self._without_hidden(text))

        log(f"$ {' '.join(command.line.split())[:LOGGED_CHARACTERS]}")
        what = self.step or self._shown(command.line)[:LOGGED_CHARACTERS]
        output = Output(self.name, what, log, tell, command.sink, keep=command.keep)
        try:
            self.transport.stream(command, output)
        except Broken as error:
            raise ConnectionLost(
                f"{self.name}: the connection broke during {self.step or 'a command'}. What was"
                " running there is ended. Repeat the command to continue."
            ) from error
        return output

    def interrupt(self) -> None:
        """End what is running: `run`, in whichever thread, raises `Interrupted`, now and later."""
        self.transport.interrupt()


def local_host(node: Node, root: str | None = None) -> Host:
    """This machine as a node, with everything in the folder `root`."""
    return Host(node, Layout(root or node_root(str(Path.home()))), LocalTransport())
