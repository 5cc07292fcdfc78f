"""Host keys: shown and asked about once, pinned from then on, and never replaced in silence.

A cluster's pins lie in `.cluster/<name>/known_hosts`, in the form that ssh reads. For machines of
a person's own (a nodefile), what their ~/.ssh/known_hosts says counts as well.
"""

from __future__ import annotations

import base64
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from bootstrap import atomic_files
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.paths import records
from bootstrap.terminal import say

ACCEPT_FLAG = "--accept-host-keys"
FORGET = "fab forget-host --node"
CLUSTERS = records("x").folder.parent


class HostKeyRefused(UserError):
    """A node's host key is not the one that is pinned, or the person would not accept it."""


@dataclass(frozen=True)
class Pins:
    """The host keys of a cluster that a person has accepted.

    Attributes:
        file: where they are kept.
    """

    file: Path

    def of(self, name: str) -> list[paramiko.PKey]:
        """A node's keys; none where it was never met."""
        return [key for names, key in self._lines() if name in names]

    def add(self, keys: Mapping[Node, paramiko.PKey]) -> None:
        """Pin nodes' keys, by their names and addresses."""
        lines = [*self._text_lines()]
        lines += [f"{','.join(_names(node))} {key_text(key)}" for node, key in keys.items()]
        self._write(lines)

    def forget(self, name: str) -> bool:
        """Unpin a node; False where it was not pinned."""
        lines = self._text_lines()
        kept = [line for line in lines if name not in line.split(" ", 1)[0].split(",")]
        if len(kept) == len(lines):
            return False
        self._write(kept)
        return True

    def forget_all(self) -> bool:
        """Unpin every node; what was pinned stays in `known_hosts.old`. False: nothing was."""
        if not self._text_lines():
            return False
        self.file.replace(self.file.with_name(f"{self.file.name}.old"))
        return True

    def names(self) -> list[str]:
        """Of the pinned nodes."""
        return [names[0] for names, _ in self._lines()]

    def _lines(self) -> list[tuple[list[str], paramiko.PKey]]:
        found = []
        for line in self._text_lines():
            names, kind, blob = line.split(" ")[:3]
            key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
            found.append((names.split(","), key))
        return found

    def _text_lines(self) -> list[str]:
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def _write(self, lines: list[str]) -> None:
        atomic_files.write(self.file, "".join(f"{line}\n" for line in lines).encode())


def pins_of(cluster: str | None) -> list[Pins]:
    """The pins of one cluster, or of all."""
    folders = [records(cluster).folder] if cluster else sorted(CLUSTERS.glob("*/"))
    return [Pins(records(folder.name).known_hosts) for folder in folders]


def forget_all(cluster: str | None = None) -> list[Path]:
    """Unpin every node of one cluster, or of all; returns the files that are `.old` now."""
    return [pin.file for pin in pins_of(cluster) if pin.forget_all()]


def key_text(key: paramiko.PKey) -> str:
    """A key as a known_hosts line ends."""
    return f"{key.get_name()} {key.get_base64()}"


def known_as(address: str, port: int) -> str:
    """What a known_hosts line calls a machine."""
    return address if port == 22 else f"[{address}]:{port}"


def _names(node: Node) -> list[str]:
    """What a known_hosts line calls a node; its own name first."""
    addresses = filter(None, [node.address, node.public_address, node.ssh_host])
    marked = [known_as(address, node.port) for address in addresses]
    return list(dict.fromkeys([node.name, *marked]))


def refused(
    node: Node, known: Sequence[paramiko.PKey], offered: paramiko.PKey, file: Path
) -> HostKeyRefused:
    """Why a changed key is refused, and what to do if the change is right."""
    pinned = ", ".join(f"{key.algorithm_name} {key.fingerprint}" for key in known)
    if file.name == "known_hosts" and file.parent.name == ".ssh":
        name = known_as(node.ssh_host or node.address, node.port)
        accept = f"ssh-keygen -R {shlex.quote(name)}"
    else:
        accept = f"{FORGET} {node.name}"
    return HostKeyRefused(
        f"{node.name} ({node.address}:{node.port}) shows another host key than before; nothing was"
        " sent to it.\n"
        f"    known:   {pinned}  (in {file})\n"
        f"    offered: {offered.algorithm_name} {offered.fingerprint}\n"
        "Either it is not the same machine (it was replaced or installed anew, or the cluster was"
        " destroyed and made again), or somebody stands between you and it. Find out which: on the"
        " machine's console, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints the right"
        f" one. If the offered one is right: {accept}\nand the next command shows it and asks."
    )


def compare(
    offered: Mapping[Node, paramiko.PKey], boot_log: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """What the machines' own boot logs say of the keys: "same", or "not in it", by node.

    Raises:
        HostKeyRefused: a boot log names other keys.
    """
    said = {}
    for node, key in offered.items():
        fingerprints = boot_log.get(node.name)
        if fingerprints and key.fingerprint not in fingerprints:
            raise HostKeyRefused(
                f"{node.name} ({node.address}:{node.port}) shows the host key {key.fingerprint},"
                f" but its boot log says {', '.join(sorted(fingerprints))}: somebody stands between"
                " you and it. Nothing was sent to it."
            )
        said[node.name] = "same in its boot log" if fingerprints else ""
    return said


def question(offered: Mapping[Node, paramiko.PKey], said: Mapping[str, str]) -> str:
    """The table of keys met for the first time, and what is asked about them."""
    width = max(len(node.name) for node in offered)
    kinds = max(len(key.algorithm_name) for key in offered.values())
    lines = [
        f"  {node.name:{width}}  {key.algorithm_name:{kinds}}  {key.fingerprint}"
        f"  {said.get(node.name, '')}".rstrip()
        for node, key in offered.items()
    ]
    machines = "this machine" if len(lines) == 1 else f"these {len(lines)} machines"
    return (
        f"First contact with {machines}. Their host keys:\n" + "\n".join(lines) + "\n"
        "Each should be what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the"
        " machine's console. They are pinned once accepted."
    )


def ask_on_terminal(text: str) -> bool:
    """Show a question and take yes or no.

    Raises:
        UserError: there is nobody to ask; names the flag.
    """
    if not sys.stdin.isatty():
        raise UserError(
            f"{text}\nThere is no terminal to ask in. If they are right, pass {ACCEPT_FLAG}."
        )
    say(text)
    while True:
        answer = input("Accept them? [yes/no] ").strip().lower()
        if answer in ("yes", "no"):
            return answer == "yes"


def accept_all(text: str) -> bool:
    """For scripts: show and accept."""
    say(text)
    say(f"Accepted ({ACCEPT_FLAG}).")
    return True
