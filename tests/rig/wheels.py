"""The wheels that a lock file pins, fetched once and kept for every rig after that."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.environment import TORCH_INDEX, TORCH_INDEX_VARIABLE, chosen_index
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
    torch = chosen_index(TORCH_INDEX_VARIABLE, TORCH_INDEX) if "torch==" in lock.read_text() else ""
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--python-version", version, "--implementation", "cp"),
            *("--find-links", str(cache), "--dest", str(cache), "--requirement", str(lock)),
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


def _key(lock: Path, version: str) -> str:
    return hashlib.sha256(f"{version}\n{lock.read_text()}".encode()).hexdigest()[:16]
