"""Releases of packages that go together, and the SHA-256 of their wheels, as uv finds them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.environments.profiles import SetupError, locked_versions
from scripts.environments.steps import Steps, pip

UV = "uv==0.13.9"
PLATFORM = "x86_64-manylinux_2_28"
PYTHONS = ("3.11", "3.12", "3.13")
ADVICE = "Change the ranges in pyproject.toml so that they can all be met, or check the network."


@dataclass(frozen=True)
class Wheels:
    """A release's wheels.

    Attributes:
        version: of the package.
        python: the oldest of `PYTHONS` that needs it.
        digests: the SHA-256 of each.
    """

    version: str
    python: str
    digests: set[str]


@dataclass(frozen=True)
class Resolver:
    """uv, in a scratch folder, for one checkout.

    Args:
        upgrade: whether to take the newest releases rather than those that a lock file has.
    """

    root: Path
    place: Path
    steps: Steps
    upgrade: bool

    @classmethod
    @contextlib.contextmanager
    def installed(cls, root: Path, *, upgrade: bool) -> Iterator[Resolver]:
        """A resolver with uv installed into a scratch folder, which is removed at the end."""
        with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
            place = Path(scratch)
            steps = Steps(place / "log")
            steps.run("virtual environment", [sys.executable, "-m", "venv", place / "env"], "")
            steps.run(UV, [*pip(place / "env"), "install", UV], "Check the network.")
            yield cls(root, place, steps, upgrade)

    def releases(self, lock: Path, extras: Sequence[str], constraints: str) -> dict[str, str]:
        """The release of each package that the extras need, for the oldest Python.

        Releases that the lock file has already are kept where pyproject.toml still allows them,
        unless `upgrade` is set.

        Args:
            constraints: requirements that narrow the choice, one per line.

        Raises:
            SetupError: the ranges in pyproject.toml cannot all be met.
        """
        # uv keeps the releases that its output file names, where it can.
        kept = self.place / lock.name
        kept.write_text(lock.read_text() if lock.is_file() and not self.upgrade else "")
        self._compile(f"{lock.name}: releases", extras, constraints, PYTHONS[0], kept)
        return locked_versions(kept)

    def wheels(
        self, lock: Path, extras: Sequence[str], releases: Mapping[str, str]
    ) -> dict[str, Wheels]:
        """The wheels of each release that fit `PLATFORM` and one of `PYTHONS`.

        What only newer Pythons need is among them.

        Raises:
            SetupError: a package lacks a wheel for one Python, or one does without a package.
        """
        import tomllib  # older Pythons, which are refused with a message, lack it

        pins = "".join(f"{name}=={version}\n" for name, version in releases.items())
        found: dict[str, Wheels] = {}
        for python in PYTHONS:
            # Of uv's forms this one names the wheels; it asks for such a file name.
            pylock = self.place / f"pylock.{lock.stem}-{python.replace('.', '-')}.toml"
            what = f"{lock.name}: wheels for Python {python}"
            self._compile(what, extras, pins, python, pylock, "--only-binary", ":all:")
            packages = tomllib.loads(pylock.read_text())["packages"]
            there = {package["name"] for package in packages}
            for name in sorted(found.keys() - there):
                first = found[name].python
                raise SetupError(
                    f"{lock.name}: needed on Python {first} and not on {python}: {name}"
                )
            for package in packages:
                name = package["name"]
                wheels = found.setdefault(name, Wheels(package["version"], python, set()))
                wheels.digests.update(
                    wheel["hashes"]["sha256"] for wheel in package.get("wheels", [])
                )
        return found

    def _compile(
        self,
        what: str,
        extras: Sequence[str],
        constraints: str,
        python: str,
        output: Path,
        *options: str,
    ) -> None:
        narrowed = self.place / "constraints.txt"
        narrowed.write_text(constraints)
        command: list[str | Path] = [self.place / "env" / "bin" / "uv", "pip", "compile"]
        command += ["--no-header", "--no-annotate", *options]
        command += ["--no-python-downloads", "--python", sys.executable]
        command += ["--python-version", python, "--python-platform", PLATFORM]
        command += [word for extra in extras for word in ("--extra", extra)]
        command += ["--constraint", narrowed, "--output-file", output]
        self.steps.run(what, [*command, self.root / "pyproject.toml"], ADVICE)
