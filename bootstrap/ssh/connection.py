"""Connections to nodes: Fabric's, with a limit on every wait and with strict host keys."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko
from fabric import Config, Connection

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.inventory.user_ssh_config import person_known_hosts
from bootstrap.ssh.host_keys import HostKeyRefused, Pins, known_as, refused

CONNECT_SECONDS = 15
KEEPALIVE_SECONDS = 15
# How long what we sent may go unacknowledged before the connection counts as broken.
UNANSWERED_MILLISECONDS = 60_000
# Without a handler of ours its warnings go to the terminal; our errors say what matters.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Unreachable(UserError):
    """A node does not answer, or does not let us in.

    Attributes:
        may_pass: it may answer a little later.
    """

    def __init__(self, text: str, may_pass: bool) -> None:
        super().__init__(text)
        self.may_pass = may_pass


class StrictConnection(Connection):
    """A Fabric connection that accepts no key by itself and waits for nothing for ever."""

    def get_gateway(self) -> Any:
        """ProxyJump of ~/.ssh/config, whose machines must be in ~/.ssh/known_hosts."""
        gateway = super().get_gateway()
        hop = gateway
        while isinstance(hop, Connection):
            hop.connect_timeout = CONNECT_SECONDS
            hop.client.load_system_host_keys()
            hop.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            hop = hop.gateway
        return gateway

    def open_gateway(self) -> Any:
        """A channel through the gateway, or an error in `CONNECT_SECONDS`."""
        if isinstance(self.gateway, str):
            return super().open_gateway()
        self.gateway.open()
        return self.gateway.transport.open_channel(
            "direct-tcpip", (self.host, int(self.port)), ("", 0), timeout=CONNECT_SECONDS
        )


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Asked by paramiko about a key that it does not know.

    Keys of another kind than the known one are a change; keys of a machine never met are let
    through to log in, which gives nothing away, and no command runs before they are accepted.
    """

    def __init__(self, node: Node, known: Sequence[paramiko.PKey], file: Path) -> None:
        self.node, self.known, self.file = node, known, file

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """See the class."""
        del client, hostname
        if self.known:
            raise refused(self.node, self.known, key, self.file)


class Connector:
    """Opens the connections of one cluster."""

    def __init__(self, inventory: Inventory, pins: Pins) -> None:
        self.inventory, self.pins = inventory, pins
        self._pinning = threading.Lock()

    def connection(self, node: Node, head: Connection | None) -> StrictConnection:
        """A connection to a node, not open yet; workers through the head's."""
        config = Config(overrides={"load_ssh_configs": True})
        host = node.ssh_host or node.address
        if head is None and self.inventory.gateway:
            host = self.inventory.gateway
        key = self.inventory.ssh_private_key_path
        made = StrictConnection(
            host,
            user=node.user or self.inventory.user or None,
            port=node.port,
            config=config,
            connect_timeout=CONNECT_SECONDS,
            forward_agent=False,
            connect_kwargs={
                "banner_timeout": CONNECT_SECONDS,
                "auth_timeout": CONNECT_SECONDS,
                "channel_timeout": CONNECT_SECONDS,
                **({"key_filename": [str(key)]} if key else {}),
            },
        )
        # What the person's own config says on how to get there is better than our guess.
        if head is not None and made.gateway is None:
            made.gateway = head
        return made

    def open(self, node: Node, connection: StrictConnection) -> paramiko.PKey | None:
        """Connect and log in; the host's key, where it was never met before.

        Raises:
            HostKeyRefused: it is not the known one.
            Unreachable: says what was tried, and what may help.
        """
        known, file = self._known(node)
        name = known_as(connection.host, connection.port)
        keys = connection.client.get_host_keys()
        for key in known:
            keys.add(name, key.get_name(), key)
        connection.client.set_missing_host_key_policy(HostKeyPolicy(node, known, file))
        try:
            connection.open()
        except HostKeyRefused:
            connection.close()
            raise
        except paramiko.BadHostKeyException as error:
            connection.close()
            raise refused(node, known, error.key, file) from error
        except (OSError, EOFError, paramiko.SSHException, ValueError) as error:
            connection.close()
            raise self._unreachable(node, connection, error) from error
        connection.transport.set_keepalive(KEEPALIVE_SECONDS)
        _notice_silence(connection.transport.sock)
        offered = connection.transport.get_remote_server_key()
        if known and file != self.pins.file:
            with self._pinning:
                self.pins.add({node: offered})
        return None if known else offered

    def _known(self, node: Node) -> tuple[list[paramiko.PKey], Path]:
        known = self.pins.of(node.name)
        if known or self.inventory.kind != "nodefile":
            return known, self.pins.file
        file = person_known_hosts()
        keys = paramiko.HostKeys()
        with contextlib.suppress(OSError):
            keys.load(str(file))
        for host in (node.ssh_host, node.address):
            found = keys.lookup(known_as(host, node.port))
            if found:
                return list(found.values()), file
        return [], self.pins.file

    def _unreachable(
        self, node: Node, connection: StrictConnection, error: Exception
    ) -> Unreachable:
        user, at = connection.user, f"{connection.host}:{connection.port}"
        through = ""
        if isinstance(connection.gateway, Connection):
            through = f", through {connection.gateway.host}:{connection.gateway.port}"
        where = f"{node.name} ({user}@{at}{through})"
        if isinstance(error, paramiko.PasswordRequiredException):
            return Unreachable(
                f"{where}: its key has a passphrase. Give it to the agent first: ssh-add"
                f" {self.inventory.ssh_private_key_path or ''}".rstrip(),
                may_pass=False,
            )
        if isinstance(error, paramiko.AuthenticationException) or "No authentication" in str(error):
            tried = self.inventory.ssh_private_key_path or "~/.ssh/id_*, the agent, ~/.ssh/config"
            return Unreachable(
                f"{where} answers, but does not let {user} in with a key (tried: {tried}). Is the"
                " public key in its ~/.ssh/authorized_keys, or has the agent the private one"
                " (ssh-add -l)?",
                may_pass=False,
            )
        if isinstance(error, FileNotFoundError):
            return Unreachable(f"{where}: there is no key {error.filename}.", may_pass=False)
        return Unreachable(
            f"{where} does not answer: {_reason(error)}. {_advice(node, through)}", may_pass=True
        )


def _reason(error: Exception) -> str:
    if isinstance(error, paramiko.ChannelException):
        if error.code == 1:
            return "the head's sshd forwards nothing (AllowTcpForwarding)"
        return "the head cannot reach it (refused, no route, or no such name)"
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return str(next(iter(error.errors.values())).strerror or error).lower()
    if isinstance(error, TimeoutError) or "Timeout" in str(error):
        return f"nothing came back for {CONNECT_SECONDS} s"
    if isinstance(error, socket.gaierror):
        return "no such host name"
    return (getattr(error, "strerror", None) or str(error) or "the connection was closed").lower()


def _advice(node: Node, through: str) -> str:
    if through:
        return f"Is it running, and its sshd? On the head: ssh -p {node.port} {node.address}"
    return (
        "Is it running? Does its firewall admit your present address (in Azure: pulumi config set"
        " allowed_ssh_cidr X, then pulumi up)? Is the address right?"
    )


def _notice_silence(sock: Any) -> None:
    """A peer that vanishes is noticed in a minute; by itself the kernel takes a quarter hour."""
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MILLISECONDS)
