"""One node to run commands on: over SSH (`ssh_host`), or this machine itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from bootstrap import urls
from bootstrap.errors import CommandFailed, UserError
from bootstrap.inventory.inventory import Node
from bootstrap.paths import Layout, node_root
from bootstrap.ssh import transfer
from bootstrap.ssh.command import Command, CommandResult, OnBytes, OnLine, one_line, script
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.shell_watchdog import GRACE_SECONDS, watched

CHUNK = 1 << 16
LAST_LINES = 12
LOGGED_CHARACTERS = 500
Ask = Callable[[str], bool]


class Host(ABC):
    """One node.

    Attributes:
        node: its place in the inventory.
        layout: where things lie on it.
        step: what is being done on it, for messages.
        log: told every command and every line that it prints.
        unreachable: why nothing can be run on it; None: it answers.
    """

    def __init__(self, node: Node, root: str) -> None:
        self.node = node
        self.layout = Layout(root)
        self.step = ""
        self.log: OnLine = _no_log
        self.unreachable: UserError | None = None
        self._hidden: set[str] = set()
        self._outputs: set[Output] = set()
        self._interrupted = False

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name

    @property
    def python(self) -> str:
        """The interpreter of the node's environment, by its absolute path."""
        return self.layout.python

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
        with tempfile.SpooledTemporaryFile(max_size=transfer.SPOOLED) as source:
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

    def write(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Write a file whole or not at all, making its folder."""
        transfer.write(self, path, content, mode)

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            UserError: it cannot be read, or is larger than any that is read whole.
        """
        return transfer.read(self, path)

    def read_lines(self, path: str, on_line: OnLine) -> None:
        """Tell a file's lines, however many there are.

        Raises:
            UserError: it cannot be read.
        """
        transfer.read_lines(self, path, on_line)

    def send(
        self, source: Path, path: str, on_bytes: OnBytes | None = None, *, exact: bool = False
    ) -> None:
        """Copy a file or a folder of the person's to the node: only what differs (SHA-256).

        Args:
            source: see `local_files` on links in it.
            path: what it is called there.
            on_bytes: told how many bytes have gone out, a piece at a time.
            exact: what else is in the folder there is removed.
        """
        transfer.send(self, source, path, on_bytes, exact=exact)

    def fetch(self, path: str, target: Path, on_bytes: OnBytes | None = None) -> None:
        """Copy a file or a folder of the node to the person: only what differs, resumed."""
        transfer.fetch(self, path, target, on_bytes)

    def exists(self, path: str, kind: Literal["e", "d", "f"] = "e") -> bool:
        """Whether there is such a path; as `test` has it, "d": a folder, "f": a file."""
        line = script(f'test -{kind} "$1"', path)
        return self.run(line, check=False).exit_code == 0

    def text_of(self, path: str) -> str:
        """A small file's text; "" where there is none that can be read."""
        return self.run(script('cat "$1" 2>/dev/null || :', path)).stdout

    @abstractmethod
    def stream(self, command: Command) -> Output:
        """Run a command and hand on what it prints until it has ended."""

    def interrupt(self) -> None:
        """End what is running: `run`, in whichever thread, raises `Interrupted`, now and later."""
        self._interrupted = True
        for output in list(self._outputs):
            output.interrupt()

    @contextmanager
    def _taking(self, command: Command) -> Iterator[Output]:
        """Where a command's output goes; known to `interrupt` for as long."""
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
        self._outputs.add(output)
        if self._interrupted:
            output.interrupt()
        try:
            yield output
            output.check_begun()
        finally:
            self._outputs.discard(output)

    @abstractmethod
    def close(self) -> None:
        """Let go of the node."""


class LocalHost(Host):
    """This machine."""

    def __init__(self, node: Node, root: str | None = None) -> None:
        super().__init__(node, root or node_root(str(Path.home())))

    def stream(self, command: Command) -> Output:
        """See `Host.stream`."""
        with self._taking(command) as output:
            process = subprocess.Popen(
                ["sh", "-c", watched(command.line, command.stdin_bytes, output.mark)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            pumps = [
                _start(_pump, process.stdout, output.out),
                _start(_pump, process.stderr, output.err),
            ]
            feeder = _start(_feed, process.stdin, command)
            try:
                output.wait(command.timeout)
                output.exit_code = process.wait()
            except BaseException:
                _end(process, pumps)
                raise
            finally:
                feeder.join()
                process.stdin.close()
        return output

    def close(self) -> None:
        """End what is running."""
        self.interrupt()


def _start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _no_log(line: str) -> None:
    del line


def _pump(pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
    with pipe:
        while piece := os.read(pipe.fileno(), CHUNK):
            take(piece)
        take(b"")


def _feed(pipe: IO[bytes], command: Command) -> None:
    # The pipe stays open: as long as it is, somebody here waits (see shell_watchdog).
    with contextlib.suppress(OSError):  # It does not read its input: its exit code says more.
        feed(pipe.write, command)


def feed(write: Callable[[bytes], object], command: Command) -> None:
    """Write a command's input, and tell how much has gone out."""
    left = command.stdin_bytes
    while command.stdin and left > 0 and (piece := command.stdin.read(min(CHUNK, left))):
        write(piece)
        left -= len(piece)
        if command.on_bytes:
            command.on_bytes(len(piece))


def _end(process: subprocess.Popen[bytes], pumps: Sequence[threading.Thread]) -> None:
    """Let the command's watcher end it; what then still holds its outputs is killed."""
    assert process.stdin is not None
    process.stdin.close()
    for pump in pumps:
        pump.join(2 * GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
