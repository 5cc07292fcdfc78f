"""Where the Python of a cluster's environments comes from: the nodes' own, or conda's packages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bootstrap.setup.broadcast import Say
from bootstrap.setup.node_facts import CONDA_PYTHONS, PYTHONS, NodeFacts
from bootstrap.setup.python import conda, packages
from bootstrap.setup.python.environment import Base, venv_lines
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

FetchWheels = Callable[[Lock, str], Iterator[str]]
"""Brings a lock's wheels for a version of Python to the head; yields folder by folder."""


class Interpreter(ABC):
    """Makes the empty environments, and decides which version of Python they have.

    Attributes:
        kind: its name in `installed.json`.
        replaces: wheels that put a file where it has its own.
        own_libraries: whether its lib folder holds what the system's programs must not meet.
    """

    kind: ClassVar[str]
    replaces: ClassVar[tuple[str, ...]] = ()
    own_libraries: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def refusal(facts: NodeFacts) -> str | None:
        """What a node lacks for it, and what mends that."""

    @abstractmethod
    def fetch(self, head: Host, facts: NodeFacts, wheels: FetchWheels, say: Say) -> Iterator[str]:
        """Bring to the head what every node needs for it; yields folder by folder."""

    @abstractmethod
    def base(self, host: Host) -> Base:
        """What it makes environments from, once every node has what `fetch` brought."""

    @abstractmethod
    def empty_lines(self, host: Host, facts: NodeFacts, home: str) -> list[str]:
        """The commands that make an environment without packages in the folder `home`."""


@dataclass(frozen=True)
class Venv(Interpreter):
    """The node's own Python, of the version that all have."""

    version: str
    kind = "venv"

    @staticmethod
    def refusal(facts: NodeFacts) -> str | None:
        """See `Interpreter`."""
        if facts.pythons:
            return None
        return (
            f"no Python {PYTHONS[-1]} to {PYTHONS[0]} with the venv module. Install one (Debian and"
            " Ubuntu: apt-get install python3 python3-venv), or use --environment conda."
        )

    def fetch(self, head: Host, facts: NodeFacts, wheels: FetchWheels, say: Say) -> Iterator[str]:
        """See `Interpreter`."""
        return iter(())

    def base(self, host: Host) -> Base:
        """See `Interpreter`."""
        return Base(self.kind, self.version)

    def empty_lines(self, host: Host, facts: NodeFacts, home: str) -> list[str]:
        """See `Interpreter`."""
        return venv_lines(facts.pythons[self.version], home)


@dataclass(frozen=True)
class Conda(Interpreter):
    """Python, tcmalloc and libiomp5 from a channel (see `conda`).

    Attributes:
        payload: holds the program that installs them.
        lock: of py-rattler.
        channel: None: conda-forge's own.
    """

    payload: Payload
    lock: Lock
    channel: str | None
    kind = "conda"
    replaces = conda.REPLACED
    own_libraries = True

    @staticmethod
    def refusal(facts: NodeFacts) -> str | None:
        """See `Interpreter`."""
        if facts.conda_python:
            return None
        return (
            f"no Python {CONDA_PYTHONS[-1]} or newer, which conda's installer (py-rattler)"
            " runs in. Install one (Debian and Ubuntu: apt-get install python3)."
        )

    def fetch(self, head: Host, facts: NodeFacts, wheels: FetchWheels, say: Say) -> Iterator[str]:
        """See `Interpreter`."""
        yield from wheels(self.lock, conda.WHEEL_PYTHON)
        channel = self.channel or conda.CHANNEL
        rattler = self._rattler(head)
        yield conda.fetch(head, self.payload, facts.any_python, rattler, channel, say)

    def base(self, host: Host) -> Base:
        """See `Interpreter`."""
        return conda.base_on(host)

    def empty_lines(self, host: Host, facts: NodeFacts, home: str) -> list[str]:
        """See `Interpreter`."""
        wheel = f"{self.payload.path(host)}/{self.payload.wheel}"
        folder = conda.folder_of(host)
        return conda.install_lines(wheel, facts.any_python, self._rattler(host), folder, home)

    def _rattler(self, host: Host) -> str:
        (folder,) = packages.folders_of(host, self.lock, conda.WHEEL_PYTHON)
        return folder
