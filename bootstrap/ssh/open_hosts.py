"""The nodes of an inventory, connected: over SSH, or this machine itself."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import paramiko

from bootstrap.errors import ConnectionLost, UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.paths import Layout, node_root, records
from bootstrap.ssh.connection import CONNECT_SECONDS, Connector, StrictConnection, Unreachable
from bootstrap.ssh.host import Ask, Host, local_host
from bootstrap.ssh.host_keys import HostKeyRefused, Pins, compare, question
from bootstrap.ssh.node_log import logging_to
from bootstrap.ssh.ssh_transport import SshTransport
from bootstrap.terminal import say

AGAIN_SECONDS = 3.0
QUIET_SECONDS = 1.5
"""How long a node that is slow to answer is waited for without a word."""
BootLog = Callable[[Sequence[str]], Mapping[str, Collection[str]]]


@contextmanager
def open_hosts(inventory: Inventory, ask: Ask, **how: Any) -> Iterator[list[Host]]:
    """Connect to every node; the head is the first of the list.

    A node that cannot be reached is in the list too, and says why in `unreachable`.

    Args:
        inventory: the nodes.
        ask: a question with the fingerprints of hosts met for the first time; True: go on.
        how: see `connect_all`. What is waited for is said on standard error.
    """
    if inventory.kind == "local":
        hosts = [local_host(inventory.head)]
    else:
        how.setdefault("on_silence", partial(say, error=True))
        hosts = connect_all(inventory, ask, **how)
    with logging_to(records(inventory.name).logs, hosts) as logged:
        try:
            yield logged
        finally:
            for host in reversed(hosts):
                host.transport.close()


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
    offered: dict[Node, paramiko.PKey] = {}
    refused: dict[Node, UserError] = {}
    stop = threading.Event()

    def meet(node: Node) -> None:
        try:
            with _telling(node, on_silence):
                key = _open(connector, node, ways[node].connection, end, stop, on_wait)
            if key:
                offered[node] = key
        except (Unreachable, HostKeyRefused) as error:
            refused[node] = error

    head = inventory.head
    ways = {head: SshTransport(connector.connection(head, None))}
    meet(head)
    for node in inventory.workers:
        ways[node] = SshTransport(connector.connection(node, ways[head].connection))
        if head in refused:
            refused[node] = UserError(
                f"{node.name} is reached through the head, {head.name}, which is not."
            )
    with ThreadPoolExecutor(max_workers=len(ways)) as threads:
        try:
            list(threads.map(meet, [node for node in inventory.workers if node not in refused]))
            _settle(inventory, pins, offered, ask, boot_log)
            return list(
                threads.map(
                    lambda node: _host(node, ways[node], refused.get(node), inventory), ways
                )
            )
        except BaseException:
            stop.set()
            for way in reversed(ways.values()):
                way.close()
            raise


def _host(node: Node, way: SshTransport, refused: UserError | None, inventory: Inventory) -> Host:
    """The node, once it has said where its home folder is.

    Everything of ours goes there, or into the cluster's data folder. A node that does not answer
    this, or has no place for us, is not reached either.
    """
    host = Host(node, Layout(""), way, unreachable=refused)
    if refused:
        return host
    try:
        home = host.run('printf %s "$HOME"', timeout=CONNECT_SECONDS).stdout
        return dataclasses.replace(host, layout=Layout(node_root(home, inventory.data_folder)))
    except ConnectionLost:
        refused = UserError(f"{node.name}: the connection broke at its first command.")
    except UserError as error:
        text = str(error)
        refused = UserError(text if text.startswith(node.name) else f"{node.name}: {text}")
    return dataclasses.replace(host, unreachable=refused)


@contextlib.contextmanager
def _telling(node: Node, on_silence: Callable[[str], None] | None) -> Iterator[None]:
    if on_silence is None:
        yield
        return
    text = f"{node.name} has not answered yet; it is given {CONNECT_SECONDS} s"
    timer = threading.Timer(QUIET_SECONDS, on_silence, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _open(
    connector: Connector,
    node: Node,
    connection: StrictConnection,
    end: float,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None,
) -> paramiko.PKey | None:
    while True:
        try:
            return connector.open(node, connection)
        except Unreachable as error:
            if not error.may_pass or time.monotonic() + AGAIN_SECONDS > end:
                raise
            if on_wait:
                on_wait(str(error))
            if stop.wait(AGAIN_SECONDS):
                raise


def _settle(
    inventory: Inventory,
    pins: Pins,
    offered: dict[Node, paramiko.PKey],
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
