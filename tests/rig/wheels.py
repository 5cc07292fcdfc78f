"""The wheels that a lock file pins, fetched once and kept for every rig after that."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.environments.indexes import TORCH_INDEX, TORCH_INDEX_VARIABLE, chosen_index
from tests.rig.commands import RigError, run
from tests.rig.prerequisites import HOST_PYTHON

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "rig-wheels"


def fetch_wheels(locks: Sequence[Path], cache: Path = CACHE, *, show: bool = False) -> Path:
    """The folder with the wheels of these lock files, for the Python that the hosts have.

    What lies there already is not fetched again. Needs a package index, which pip's own settings
    name (PIP_INDEX_URL, PIP_FIND_LINKS); torch comes from PyTorch's index where that answers.
    """
    cache.mkdir(parents=True, exist_ok=True)
    python = run(str(HOST_PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    version = python.stdout.strip()
    for lock in locks:
        finished = cache / f".{_key(lock, version)}"
        if not finished.exists():
            _download(lock, version, cache, show)
            finished.touch()
    return cache


def fetch_wheel(requirement: str, cache: Path = CACHE) -> Path:
    """The folder with the wheel of one requirement, such as impi-rt==2021.17.2."""
    cache.mkdir(parents=True, exist_ok=True)
    lock = cache / f".{re.sub(r'[^a-z0-9.=-]', '_', requirement)}.txt"
    lock.write_text(f"{requirement}\n")
    return fetch_wheels([lock], cache)


def _download(lock: Path, version: str, cache: Path, show: bool) -> None:
    pins = _pins(lock)
    # Where one pin has a digest pip wants one of each, and those from other indexes have none.
    for with_digest in (True, False):
        wanted = [pin for pin in pins if ("--hash=" in pin) == with_digest]
        if not wanted:
            continue
        torch = None
        if any(pin.startswith("torch==") for pin in wanted):
            torch = chosen_index(TORCH_INDEX_VARIABLE, TORCH_INDEX)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as part:
            part.write("\n".join(wanted) + "\n")
            part.flush()
            finished = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
                    *("--python-version", version, "--implementation", "cp"),
                    *("--find-links", str(cache), "--dest", str(cache)),
                    *("--requirement", part.name),
                    *(["--extra-index-url", torch] if torch else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=None if show else subprocess.PIPE,
                stderr=None if show else subprocess.STDOUT,
                text=True,
                check=False,
            )
        if finished.returncode:
            said = (finished.stdout or "").strip().splitlines()[-3:]
            raise RigError("\n".join([f"The wheels of {lock} could not be fetched.", *said]))


def _pins(lock: Path) -> list[str]:
    """The lock's lines, each with the digests that follow it."""
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _key(lock: Path, version: str) -> str:
    return hashlib.sha256(f"{version}\n{lock.read_text()}".encode()).hexdigest()[:16]
