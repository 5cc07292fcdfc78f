"""A node over SSH."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko

from bootstrap.errors import ConnectionLost, Interrupted, UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.paths import node_root, records
from bootstrap.ssh.command import Command
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.connection import CONNECT_SECONDS, Connector, StrictConnection, Unreachable
from bootstrap.ssh.host import CHUNK, Ask, Host, feed
from bootstrap.ssh.host_keys import HostKey, HostKeyRefused, Pins, compare, question
from bootstrap.ssh.shell_watchdog import GRACE_SECONDS, watched

IDLE_SECONDS = 30.0
AGAIN_SECONDS = 3.0
QUIET_SECONDS = 1.5
"""How long a node that is slow to answer is waited for without a word."""
SESSIONS = 8
"""At once on one connection: sshd's own limit (MaxSessions) is 10, and the keepalive needs one."""
REFUSED_SECONDS = 60.0
REFUSED_AGAIN_SECONDS = 0.5
BootLog = Callable[[Sequence[str]], Mapping[str, Collection[str]]]


class SshHost(Host):
    """A node that is reached over SSH, through the head or directly."""

    def __init__(self, node: Node, connection: StrictConnection) -> None:
        super().__init__(node, "")
        self._connection = connection
        self._sessions = threading.Semaphore(SESSIONS)

    @property
    def host_key(self) -> HostKey:
        """The key that the node has shown, which is the pinned one."""
        key = self._connection.transport.get_remote_server_key()
        return HostKey(key.get_name(), key.asbytes())

    def stream(self, command: Command) -> Output:
        """See `Host.stream`."""
        with self._one_of_the_sessions(), self._taking(command) as output:
            channel = self._channel()
            try:
                channel.exec_command(watched(command.line, command.stdin_bytes, output.mark))
                _start(_pump, channel.recv, output.out)
                _start(_pump, channel.recv_stderr, output.err)
                _start(_feed, channel, command)
                output.wait(command.timeout, IDLE_SECONDS, self._check_answers)
                output.exit_code = channel.recv_exit_status()
            except paramiko.SSHException as error:
                raise self._lost() from error
            except BaseException:
                _end(channel)
                raise
            finally:
                channel.close()
            if output.exit_code < 0:
                raise self._lost()
        return output

    def find_root(self) -> None:
        """Ask the node for its home folder, where everything of ours goes.

        A node that does not answer this, or has no place for us, is not reached either.
        """
        if self.unreachable is not None:
            return
        try:
            home = self.run('printf %s "$HOME"', timeout=CONNECT_SECONDS).stdout
            self.layout = type(self.layout)(node_root(home))
        except ConnectionLost:
            self.unreachable = UserError(f"{self.name}: the connection broke at its first command.")
        except UserError as error:
            text = str(error)
            named = text if text.startswith(self.name) else f"{self.name}: {text}"
            self.unreachable = UserError(named)

    def close(self) -> None:
        """Hang up; what is running there ends."""
        with contextlib.suppress(OSError, EOFError):
            self._connection.close()

    @contextlib.contextmanager
    def _one_of_the_sessions(self) -> Iterator[None]:
        while not self._sessions.acquire(timeout=1.0):
            if self._interrupted:
                raise Interrupted(f"{self.name}: {self.step or 'a command'} was interrupted.")
        try:
            yield
        finally:
            self._sessions.release()

    def _channel(self) -> Any:
        """A session; one that is refused is asked for again: somebody else may have too many."""
        end = time.monotonic() + REFUSED_SECONDS
        while True:
            try:
                return self._open_session()
            except paramiko.ChannelException as error:
                if self._interrupted or time.monotonic() > end:
                    raise UserError(
                        f"{self.name}: its sshd has refused another session for"
                        f" {REFUSED_SECONDS:.0f} s ({error.text}). Is MaxSessions in its"
                        " /etc/ssh/sshd_config less than 4, or is the machine out of processes or"
                        " memory?"
                    ) from error
                time.sleep(REFUSED_AGAIN_SECONDS)

    def _open_session(self) -> Any:
        transport = self._connection.transport
        if transport is None or not transport.is_active():
            raise self._lost()
        try:
            return transport.open_session(timeout=CONNECT_SECONDS)
        except paramiko.ChannelException:
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            # Of two that are refused at once, paramiko tells one of them why.
            if transport.is_active() and str(error) == "Unable to open channel.":
                raise paramiko.ChannelException(2, "refused") from error
            raise self._lost() from error

    def _check_answers(self) -> None:
        """A node that has vanished behind the head is not noticed otherwise."""
        with contextlib.suppress(paramiko.ChannelException):  # It says no: it answers.
            self._open_session().close()

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            f"{self.name}: the connection broke during {self.step or 'a command'}. What was running"
            " there is ended. The same command again goes on where this one was."
        )


def connect_all(
    inventory: Inventory,
    ask: Ask,
    *,
    wait_seconds: float = 0.0,
    boot_log: BootLog | None = None,
    on_wait: Callable[[str], None] | None = None,
    on_silence: Callable[[str], None] | None = None,
) -> list[Host]:
    """Connect to every node at once, workers through the head.

    Args:
        inventory: the nodes.
        ask: shown the fingerprints of all hosts met for the first time; True: pin them.
        wait_seconds: how long a node may take to answer.
        boot_log: told nodes' names, says what fingerprints their boot logs hold.
        on_wait: told why a node is being waited for.
        on_silence: told, once a node, that it has not answered in `QUIET_SECONDS`.

    Raises:
        HostKeyRefused: the person did not accept new keys, or a boot log names others.
    """
    pins = Pins(records(inventory.name).known_hosts)
    connector = Connector(inventory, pins)
    end = time.monotonic() + wait_seconds
    offered: dict[Node, HostKey] = {}
    stop = threading.Event()
    head = SshHost(inventory.head, connector.connection(inventory.head, None))

    def meet(host: SshHost) -> None:
        with _telling(host, on_silence):
            key = _open(connector, host, end, stop, on_wait)
        if key:
            offered[host.node] = key

    meet(head)
    hosts = [head]
    for node in inventory.workers:
        worker = SshHost(node, connector.connection(node, head._connection))
        if head.unreachable:
            worker.unreachable = UserError(
                f"{node.name} is reached through the head, {head.name}, which is not."
            )
        hosts.append(worker)
    with ThreadPoolExecutor(max_workers=len(hosts)) as threads:
        try:
            list(threads.map(meet, [host for host in hosts[1:] if not host.unreachable]))
            _settle(inventory, pins, offered, ask, boot_log)
            list(threads.map(SshHost.find_root, hosts))
        except BaseException:
            stop.set()
            for host in reversed(hosts):
                host.close()
            raise
    return list(hosts)


@contextlib.contextmanager
def _telling(host: SshHost, on_silence: Callable[[str], None] | None) -> Iterator[None]:
    if on_silence is None:
        yield
        return
    text = f"{host.name} has not answered yet; it is given {CONNECT_SECONDS} s"
    timer = threading.Timer(QUIET_SECONDS, on_silence, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _open(
    connector: Connector,
    host: SshHost,
    end: float,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None,
) -> HostKey | None:
    while True:
        try:
            return connector.open(host.node, host._connection)
        except Unreachable as error:
            if not error.may_pass or time.monotonic() + AGAIN_SECONDS > end:
                host.unreachable = error
                return None
            if on_wait:
                on_wait(str(error))
            if stop.wait(AGAIN_SECONDS):
                host.unreachable = error
                return None
        except HostKeyRefused as error:
            host.unreachable = error
            return None


def _settle(
    inventory: Inventory,
    pins: Pins,
    offered: dict[Node, HostKey],
    ask: Ask,
    boot_log: BootLog | None,
) -> None:
    """Pin what the person accepts of the keys met for the first time, in the nodes' order."""
    new = {node: offered[node] for node in inventory.nodes if node in offered}
    if not new:
        return
    said = compare(new, boot_log([node.name for node in new]) if boot_log else {})
    if not ask(question(new, said)):
        raise HostKeyRefused("The host keys were not accepted; nothing was run anywhere.")
    pins.add(new)


def _start(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


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
