"""A rig: hosts on a network of their own, and the person's side of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.rig import anchors, slots
from tests.rig.commands import RigError, run
from tests.rig.file_system import USER, Identity, make_home, wait_for_image
from tests.rig.host import RigHost
from tests.rig.inventory import describe
from tests.rig.network import Network
from tests.rig.prerequisites import missing
from tests.rig.slots import State

MOST_HOSTS = 8


class Rig:
    """The hosts of a rig that is up.

    Attributes:
        slot: its number.
        hosts: the head first.
        network: what joins them.
    """

    def __init__(self, slot: int, state: State) -> None:
        self.slot = slot
        self.folder = slots.folder(slot)
        self.network = Network(slot, state.hosts, self.folder)
        self._state = state
        names = [f"vm-rig-{index}" for index in range(state.hosts)]
        addresses = {name: self.network.address(index) for index, name in enumerate(names)}
        shared = self.folder / "shared-home" if state.shared_home else None
        public_key = self.key.with_suffix(".pub")
        authorized = public_key.read_text() if public_key.exists() else ""
        self.hosts = [
            RigHost(
                index,
                Identity(name, authorized, addresses),
                self.network,
                self.folder / "hosts" / name,
                state.home_size,
                shared,
            )
            for index, name in enumerate(names)
        ]

    @property
    def head(self) -> RigHost:
        """The host that can be reached from outside."""
        return self.hosts[0]

    @property
    def workers(self) -> list[RigHost]:
        """The others."""
        return self.hosts[1:]

    @property
    def key(self) -> Path:
        """The person's private key, made for this rig."""
        return self.folder / "person" / "id_ed25519"

    @property
    def outside(self) -> str:
        """This machine's address on the uplink: where the stand-ins for the internet listen."""
        return str(self.network.outside)

    def inventory(self, **more: object) -> dict[str, Any]:
        """The rig as `pulumi stack output --json` would tell it."""
        return describe(self.network, self.hosts, self.key, self.ssh_config(), more)

    def ssh(
        self, host: RigHost, command: str, *, check: bool = True, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command over SSH as the person would: workers through the head."""
        config = str(self.ssh_config())
        return run("ssh", "-F", config, host.name, command, check=check, seconds=seconds)

    def ssh_config(self) -> Path:
        """Settings with which `ssh -F` knows the hosts by name, their present host keys pinned."""
        folder = self.key.parent
        known = folder / "known_hosts"
        entries = [f"{host.address} {host.host_key}\n" for host in self.hosts]
        entries.append(f"{self.network.public} {self.head.host_key}\n")
        known.write_text("".join(entries))
        lines = [
            "Host *",
            f"  User {USER}",
            f"  IdentityFile {self.key}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {known}",
            "  StrictHostKeyChecking yes",
            "  BatchMode yes",
            "  LogLevel ERROR",
            f"Host {self.head.name}",
            f"  HostName {self.network.public}",
        ]
        for host in self.workers:
            # ProxyJump would start an ssh that knows nothing of this file.
            jump = f"ssh -F {folder / 'ssh_config'} -W %h:%p {self.head.name}"
            lines += [f"Host {host.name}", f"  HostName {host.address}", f"  ProxyCommand {jump}"]
        (folder / "ssh_config").write_text("\n".join(lines) + "\n")
        return folder / "ssh_config"

    def set_rate(self, rate: str | None) -> None:
        """Limit every private interface, both ways; None: no limit."""
        for host in self.hosts:
            host.set_rate(rate)

    def set_uplink_rate(self, rate: str | None) -> None:
        """Limit the head's way to the person and the internet, until the head is restarted."""
        self.network.set_uplink_rate(rate, self.head.pid)

    def cut_person(self) -> None:
        """Drop everything between the person (and the internet) and the head."""
        self.network.cut_uplink(self.head.pid)

    def mend_person(self) -> None:
        """Undo `cut_person`."""
        self.network.mend_uplink(self.head.pid)

    def keep(self, inventory: Path) -> None:
        """Let the rig stay when this process ends."""
        self._state = replace(self._state, owner=None, inventory=str(inventory))
        slots.write(self.slot, self._state)

    def down(self) -> None:
        """Remove the rig without a trace. Works on a rig that is half up, too."""
        with _uninterrupted():
            _remove(self.slot, self._state)


def up(
    hosts: int = 2,
    *,
    rate: str | None = None,
    home_size: str | None = None,
    shared_home: bool = False,
    inventory: Path | None = None,
) -> Rig:
    """Bring a rig up, all of it or nothing; it is this process's until `keep`.

    Args:
        hosts: how many, the head included.
        rate: of every private interface, such as 1gbit.
        home_size: of a disk of its own for every host's /home, such as 64M.
        shared_home: give all hosts the same /home, as clusters with a file server have it.
        inventory: the file that an inventory will be written to, which `down` then removes.
    """
    if lacks := missing():
        raise RigError("A rig needs " + "; ".join(lacks) + ".")
    if not 1 <= hosts <= MOST_HOSTS:
        raise RigError(f"A rig has 1 to {MOST_HOSTS} hosts, not {hosts}.")
    path = str(inventory) if inventory else None
    state = State(hosts, home_size, shared_home, path, slots.myself())
    remove_abandoned()
    with slots.locked():
        slot = slots.take(state)
    try:
        key = slots.folder(slot) / "person" / "id_ed25519"
        key.parent.mkdir(mode=0o700)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"rig{slot}", "-f", str(key))
        rig = Rig(slot, state)
        if shared_home:
            make_home(rig.folder / "shared-home", key.with_suffix(".pub").read_text())
        rig.network.switch_on()
        with ThreadPoolExecutor() as pool:
            list(pool.map(RigHost.start, rig.hosts))
        if rate:
            rig.set_rate(rate)
    except BaseException:
        with _uninterrupted():
            _remove(slot, state)
        raise
    return rig


@contextmanager
def rig_of(hosts: int = 2, **settings: Any) -> Iterator[Rig]:
    """A rig for the length of a block."""
    rig = up(hosts, **settings)
    try:
        yield rig
    finally:
        rig.down()


def remove(slot: int) -> None:
    """Take down a rig by its number, whatever state it is in."""
    with _uninterrupted():
        _remove(slot, slots.read(slot))


def remove_abandoned() -> None:
    """Take down the rigs whose owners ended (were killed, say) without doing so."""
    if not slots.BASE.exists():
        return
    with _uninterrupted():
        with slots.locked():
            for slot in slots.used():
                state = slots.read(slot)
                # A state is written with the folder, under the lock: one without was half removed.
                if state is None or state.is_abandoned():
                    _release(slot, state)
        _sweep()


def _remove(slot: int, state: State | None) -> None:
    with slots.locked():
        _release(slot, state)
    _sweep()


def _release(slot: int, state: State | None) -> None:
    """End everything that a rig is made of, and free its number. The lock is held."""
    anchors.end(str(slot))
    run("ip", "link", "delete", f"rig{slot}", check=False)
    for disk in slots.folder(slot).glob("hosts/*/disk"):
        wait_for_image(disk)
    slots.give_back(slot)
    if state and state.inventory:
        path = Path(state.inventory)
        path.unlink(missing_ok=True)
        # What `fab` knows of the cluster: the next rig of this number has other host keys.
        shutil.rmtree(path.parent / ".cluster" / f"rig{slot}", ignore_errors=True)


def _sweep() -> None:
    slots.sweep()
    # Now that the folder is empty, leaving it takes it away.
    with slots.locked():
        pass


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C, or SIGTERM, does not stop what cleans up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
