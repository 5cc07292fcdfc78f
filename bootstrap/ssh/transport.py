"""How commands reach a machine: the interface, and its form for this machine itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import IO

from bootstrap.ssh.command import Command
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.shell_watchdog import GRACE_SECONDS, watched

CHUNK = 1 << 16


class Broken(Exception):
    """The way to the machine has gone; what ran there is ended."""


class Transport(ABC):
    """Runs commands on one machine."""

    def __init__(self) -> None:
        self._outputs: set[Output] = set()
        self._interrupted = False

    def stream(self, command: Command, output: Output) -> None:
        """Run a command, hand on what it prints until it has ended, and set its exit code.

        Raises:
            Broken: the way there went.
            TimedOut, Interrupted: it was ended before.
            UserError: it was not even begun, or printed more than is taken.
        """
        self._outputs.add(output)
        if self._interrupted:
            output.interrupt()
        try:
            self._run(command, output)
            output.check_begun()
        finally:
            self._outputs.discard(output)

    def interrupt(self) -> None:
        """End what is running; what is run from now on is ended at once."""
        self._interrupted = True
        for output in list(self._outputs):
            output.interrupt()

    @abstractmethod
    def _run(self, command: Command, output: Output) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine; what is running there ends."""


class LocalTransport(Transport):
    """This machine."""

    def _run(self, command: Command, output: Output) -> None:
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
            start(_pump, process.stdout, output.out),
            start(_pump, process.stderr, output.err),
        ]
        feeder = start(_feed, process.stdin, command)
        try:
            output.wait(command.timeout)
            output.exit_code = process.wait()
        except BaseException:
            _end(process, pumps)
            raise
        finally:
            feeder.join()
            process.stdin.close()

    def close(self) -> None:
        """See `Transport`."""
        self.interrupt()


def start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    """Do something beside; nobody has to wait for it."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def feed(write: Callable[[bytes], object], command: Command) -> None:
    """Write a command's input, and tell how much has gone out."""
    left = command.stdin_bytes
    while command.stdin and left > 0 and (piece := command.stdin.read(min(CHUNK, left))):
        write(piece)
        left -= len(piece)
        if command.on_bytes:
            command.on_bytes(len(piece))


def _pump(pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
    with pipe:
        while piece := os.read(pipe.fileno(), CHUNK):
            take(piece)
        take(b"")


def _feed(pipe: IO[bytes], command: Command) -> None:
    # The pipe stays open: as long as it is, somebody here waits (see shell_watchdog).
    with contextlib.suppress(OSError):  # It does not read its input: its exit code says more.
        feed(pipe.write, command)


def _end(process: subprocess.Popen[bytes], pumps: Sequence[threading.Thread]) -> None:
    """Let the command's watcher end it; what then still holds its outputs is killed."""
    assert process.stdin is not None
    process.stdin.close()
    for pump in pumps:
        pump.join(2 * GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
