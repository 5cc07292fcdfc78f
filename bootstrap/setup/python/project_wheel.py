"""The checkout's own code as one wheel, the same bytes whenever the code is the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bootstrap.errors import UserError

PACKAGES = ("bootstrap", "infra", "training")
FILES = ("pyproject.toml", "LICENSE")
LEFT_OUT = ("__pycache__", ".pyc")
# The earliest time that a zip file can hold.
EPOCH = "315532800"
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def sources(checkout: Path) -> Iterator[Path]:
    """The files that the wheel is made of, in order."""
    for name in FILES:
        yield checkout / name
    for package in PACKAGES:
        for path in sorted((checkout / package).rglob("*")):
            if path.is_file() and not any(part in str(path) for part in LEFT_OUT):
                yield path


def source_key(checkout: Path) -> str:
    """A name for the code as it is now."""
    digest = hashlib.sha256()
    for path in sources(checkout):
        digest.update(f"{path.relative_to(checkout)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def build(checkout: Path, folder: Path) -> Path:
    """Build the wheel into `folder/<key>/`, unless it is there.

    Takes about two seconds. It is built in a copy, so nothing is left in the checkout.

    Raises:
        UserError: setuptools refuses.
    """
    folder = folder.absolute()  # The build runs in a folder of its own.
    target = folder / source_key(checkout)
    if found := sorted(target.glob("*.whl")):
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder) as scratch:
        copy, out = Path(scratch) / "checkout", Path(scratch) / "out"
        out.mkdir()
        for path in sources(checkout):
            place = copy / path.relative_to(checkout)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            place.chmod(0o644)
        finished = subprocess.run(
            [sys.executable, "-c", BUILD, str(out)],
            cwd=copy,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            last = "\n".join(finished.stderr.strip().splitlines()[-5:])
            raise UserError(f"{checkout}: the project's wheel could not be built:\n{last}")
        for older in folder.iterdir():
            if older.is_dir() and older != Path(scratch):
                shutil.rmtree(older)
        out.rename(target)
    return next(iter(sorted(target.glob("*.whl"))))
