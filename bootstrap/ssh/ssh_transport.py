"""Commands over SSH: several at once on one connection."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko

from bootstrap.errors import Interrupted, UserError
from bootstrap.ssh.command import Command
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.connection import CONNECT_SECONDS, StrictConnection
from bootstrap.ssh.shell_watchdog import GRACE_SECONDS, watched
from bootstrap.ssh.transport import CHUNK, Broken, Transport, feed, start

IDLE_SECONDS = 30.0
SESSIONS = 8
"""At once on one connection: sshd's own limit (MaxSessions) is 10, and the keepalive needs one."""
REFUSED_SECONDS = 60.0
REFUSED_AGAIN_SECONDS = 0.5


class SshTransport(Transport):
    """A machine that is reached over SSH, through the head or directly."""

    def __init__(self, connection: StrictConnection) -> None:
        super().__init__()
        self.connection = connection
        self._sessions = threading.Semaphore(SESSIONS)

    def _run(self, command: Command, output: Output) -> None:
        with self._one_of_the_sessions(output):
            channel = self._channel(output)
            try:
                channel.exec_command(watched(command.line, command.stdin_bytes, output.mark))
                start(_pump, channel.recv, output.out)
                start(_pump, channel.recv_stderr, output.err)
                start(_feed, channel, command)
                output.wait(command.timeout, IDLE_SECONDS, self._check_answers)
                output.exit_code = channel.recv_exit_status()
            except paramiko.SSHException as error:
                raise Broken from error
            except BaseException:
                _end(channel)
                raise
            finally:
                channel.close()
            if output.exit_code < 0:
                raise Broken

    def close(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError, EOFError):
            self.connection.close()

    @contextlib.contextmanager
    def _one_of_the_sessions(self, output: Output) -> Iterator[None]:
        while not self._sessions.acquire(timeout=1.0):
            if self._interrupted:
                raise Interrupted(f"{output.host}: {output.what} was interrupted.")
        try:
            yield
        finally:
            self._sessions.release()

    def _channel(self, output: Output) -> Any:
        """A session; one that is refused is asked for again: somebody else may have too many."""
        end = time.monotonic() + REFUSED_SECONDS
        while True:
            try:
                return self._open_session()
            except paramiko.ChannelException as error:
                if self._interrupted or time.monotonic() > end:
                    raise UserError(
                        f"{output.host}: its sshd has refused another session for"
                        f" {REFUSED_SECONDS:.0f} s ({error.text}). Is MaxSessions in its"
                        " /etc/ssh/sshd_config less than 4, or is the machine out of processes or"
                        " memory?"
                    ) from error
                time.sleep(REFUSED_AGAIN_SECONDS)

    def _open_session(self) -> Any:
        transport = self.connection.transport
        if transport is None or not transport.is_active():
            raise Broken
        try:
            return transport.open_session(timeout=CONNECT_SECONDS)
        except paramiko.ChannelException:
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            # Of two that are refused at once, paramiko tells one of them why.
            if transport.is_active() and str(error) == "Unable to open channel.":
                raise paramiko.ChannelException(2, "refused") from error
            raise Broken from error

    def _check_answers(self) -> None:
        """A node that has vanished behind the head is not noticed otherwise."""
        with contextlib.suppress(paramiko.ChannelException):  # It says no: it answers.
            self._open_session().close()


def _pump(receive: Callable[[int], bytes], take: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while piece := receive(CHUNK):
            take(piece)
    take(b"")


def _feed(channel: Any, command: Command) -> None:
    # The writing side stays open: as long as it is, somebody here waits (see shell_watchdog).
    with contextlib.suppress(OSError, ValueError, EOFError, paramiko.SSHException):
        feed(channel.sendall, command)


def _end(channel: Any) -> None:
    """Ask for the end of what runs, and wait until it is there."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.shutdown_write()
        channel.status_event.wait(2 * GRACE_SECONDS)
