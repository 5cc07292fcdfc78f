"""Which rigs there are on this machine: each has a number and a folder, and some have an owner."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.rig.commands import RigError

BASE = Path("/var/tmp/xeon-diffusion-rig")
SLOTS = 64
STATE = "state.json"


@dataclass(frozen=True)
class State:
    """What outlives the process that brought a rig up.

    Attributes:
        hosts: how many there are.
        home_size: of a host's /home, or None where it is part of the host's disk.
        shared_home: whether all hosts have one /home.
        inventory: the file that the inventory was written to, to be removed with the rig.
        owner: process id and start time of the process whose end is the rig's end; none for a rig
            that was brought up to stay.
    """

    hosts: int
    home_size: str | None = None
    shared_home: bool = False
    inventory: str | None = None
    owner: tuple[int, int] | None = None

    def is_abandoned(self) -> bool:
        """Whether the rig's owner ended without taking it down."""
        return self.owner is not None and _started(self.owner[0]) != self.owner[1]


def myself() -> tuple[int, int]:
    """This process, as an owner."""
    return os.getpid(), _started(os.getpid()) or 0


def folder(slot: int) -> Path:
    """The folder of a rig."""
    return BASE / str(slot)


@contextmanager
def locked() -> Iterator[None]:
    """Nobody else takes or gives back a slot meanwhile."""
    BASE.mkdir(mode=0o711, exist_ok=True)
    with (BASE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        # The last one out leaves nothing behind.
        if not used():
            (BASE / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                BASE.rmdir()


def take(state: State) -> int:
    """The lowest free number, with its folder made."""
    taken = used()
    for slot in range(SLOTS):
        if slot not in taken and not Path(f"/sys/class/net/rig{slot}").exists():
            folder(slot).mkdir(mode=0o711)
            write(slot, state)
            return slot
    raise RigError(f"{SLOTS} rigs are up. Take them down: python -m tests.rig down --all")


def used() -> list[int]:
    """The numbers that are taken."""
    if not BASE.is_dir():
        return []
    return sorted(int(path.name) for path in BASE.iterdir() if path.name.isdigit())


def read(slot: int) -> State | None:
    """What is known of a rig; None where its `up` was killed before it could write that."""
    try:
        fields = json.loads((folder(slot) / STATE).read_text())
    except (OSError, ValueError):
        return None
    owner = fields.pop("owner")
    return State(**fields, owner=(owner[0], owner[1]) if owner else None)


def write(slot: int, state: State) -> None:
    """Write it down, whole or not at all."""
    unfinished = folder(slot) / f"{STATE}.new"
    unfinished.write_text(json.dumps(asdict(state)))
    unfinished.rename(folder(slot) / STATE)


def _started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks: no two processes share number and start."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None
