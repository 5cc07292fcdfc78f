"""What a node's lock file pins, and which index each part of it comes from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bootstrap.errors import UserError

STACKS = ("intel", "upstream")
EXTRAS = ("openvino",)
"""What a stack can have beside what it trains with (`fab bootstrap --with`)."""
CONDA = "conda"
"""No stack: what makes conda environments (py-rattler)."""
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ONECCL_INDEX = "https://pytorch-extension.intel.com/release-whl/stable/cpu/us/"
ONECCL_PACKAGE = "oneccl-bind-pt"
OWN_INDEX = {"torch": TORCH_INDEX, ONECCL_PACKAGE: ONECCL_INDEX}
"""Packages that the general index does not have, or not as nodes need them."""
ONLY_FROM = re.compile(r""";\s*python_version >= ['"]([0-9.]+)['"]""")
"""In the line of a package that only newer Pythons need."""
BATCH = 20
"""Packages in a portion: one pip fetches it, and what it has is kept once it has all of it."""


@dataclass(frozen=True)
class Part:
    """The pins that one index is asked for.

    Attributes:
        index: its URL; None: what pip is configured to ask on the head (PyPI).
        lines: requirement lines, with hashes where the lock has them.
    """

    index: str | None
    lines: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The packages."""
        return tuple(line.split("==")[0] for line in self.lines)

    def pins(self) -> str:
        """The pins without hashes, for an installation from wheels already checked."""
        return "".join(f"{re.split(r'[ ;]', line, maxsplit=1)[0]}\n" for line in self.lines)

    def requirements(self) -> str:
        """The requirement file. It names the index, which so appears in no process list."""
        first = [] if self.index is None else [f"--index-url {self.index}"]
        return "".join(f"{line}\n" for line in [*first, *self.lines])


@dataclass(frozen=True)
class Lock:
    """A stack's lock file, read.

    Attributes:
        stack: "intel" or "upstream"; or "conda".
        pins: name -> version.
        lines: requirement lines by name.
        left_out: names that its file has and that are not wanted here.
        extras: what of `EXTRAS` it has.
    """

    stack: str
    pins: dict[str, str]
    lines: dict[str, str]
    left_out: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def unhashed(self) -> tuple[str, ...]:
        """The packages of which it does not say what they must be."""
        return tuple(name for name, line in self.lines.items() if "--hash=" not in line)

    def parts(self, package_index: str | None, batch: int = BATCH) -> list[Part]:
        """The lock in portions that are fetched one after the other; the same whatever the index.

        Those with indexes of their own come first: they are what fails, and what is large.

        Args:
            package_index: asked in place of all others.
            batch: lines per portion at most.
        """
        by_index: dict[str | None, list[str]] = {index: [] for index in OWN_INDEX.values()}
        for name, line in self.lines.items():
            by_index.setdefault(OWN_INDEX.get(name), []).append(line)
        return [
            Part(package_index or index, tuple(lines[start : start + batch]))
            for index, lines in by_index.items()
            for start in range(0, len(lines), batch)
        ]

    def without(self, names: Collection[str]) -> Lock:
        """The same lock less some packages."""
        return Lock(
            self.stack,
            {name: pin for name, pin in self.pins.items() if name not in names},
            {name: line for name, line in self.lines.items() if name not in names},
            (*self.left_out, *(name for name in self.pins if name in names)),
            self.extras,
        )

    def for_python(self, version: str) -> Lock:
        """The same lock for one Python, without what only newer ones need.

        Args:
            version: such as "3.12".
        """
        newer = [
            name for name, line in self.lines.items()
            if (found := ONLY_FROM.search(line)) and _number(version) < _number(found[1])
        ]  # fmt: skip
        kept = self.without(newer)
        # pip would look at the Python that it runs under, which need not be the environment's.
        lines = {name: ONLY_FROM.sub("", line) for name, line in kept.lines.items()}
        return replace(kept, lines=lines)

    def key(self, python: str) -> str:
        """Names the wheels of this lock for a version of Python."""
        # The portions are in it, as their folders are told apart by number alone.
        text = "\n".join(
            [python, *self.lines.values(), *(part.pins() for part in self.parts(None))]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def lock_path(checkout: Path, stack: str, extras: Sequence[str] = ()) -> Path:
    """The lock file of a stack with extras."""
    return checkout / "requirements" / f"node-{'-'.join([stack, *extras])}.txt"


def read_lock(checkout: Path, stack: str, extras: Sequence[str] = ()) -> Lock:
    """Read the lock of a stack with extras (in their order in `EXTRAS`), or `CONDA`'s.

    Raises:
        UserError: there is no such stack, or the checkout is not whole.
    """
    if stack not in (*STACKS, CONDA):
        raise UserError(f"no stack named {stack}: choose one of {', '.join(STACKS)}.")
    path = lock_path(checkout, stack, extras)
    if not path.is_file():
        raise UserError(f"{path} is missing: run this in the checkout, or `git checkout` it.")
    lines: dict[str, str] = {}
    pins: dict[str, str] = {}
    # A line that ends in a backslash goes on in the next.
    joined = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    for line in joined.splitlines():
        found = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        if found:
            lines[found[1]] = line
            pins[found[1]] = found[2]
    return Lock(stack, pins, lines, extras=tuple(extras))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
