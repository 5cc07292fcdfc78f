"""Which rigs there are on this machine: each has a number and a folder, and some have an owner."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.rig.commands import RigError, run

BASE = Path("/var/tmp/xeon-diffusion-rig")
SLOTS = 64
STATE = "state.json"
GONE = "gone-"
REMOVAL_SECONDS = 900.0
"""For as long a host's disk may be deleted: gigabytes of small files on a busy disk."""


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
    lock = _lock()
    try:
        yield
        # The last one out leaves nothing behind.
        if not used():
            (BASE / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                BASE.rmdir()
    finally:
        os.close(lock)


def _lock() -> int:
    path = BASE / "lock"
    while True:
        BASE.mkdir(mode=0o711, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had it before may have removed it, and somebody else made another since.
            with suppress(FileNotFoundError):
                if os.fstat(lock).st_ino == path.stat().st_ino:
                    return lock
            os.close(lock)


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


def give_back(slot: int) -> None:
    """Free a number. What its folder holds is deleted by `sweep`, which may take a while."""
    with suppress(FileNotFoundError):
        folder(slot).rename(BASE / f"{GONE}{slot}-{uuid.uuid4().hex}")


def sweep() -> None:
    """Delete what rigs that are gone have left, also what a killed process was deleting."""
    for path in BASE.glob(f"{GONE}*"):
        run("rm", "-rf", str(path), seconds=REMOVAL_SECONDS)


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
