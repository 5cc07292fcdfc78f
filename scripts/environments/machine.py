"""What a machine must have before an environment is made on it."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from scripts.environments.profiles import Profile, SetupError

OLDEST_PYTHON = (3, 11)


def check_python() -> None:
    """Refuse an interpreter that is too old for this project."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(str(number) for number in OLDEST_PYTHON)
        raise SetupError(
            f"Python {wanted} or newer is needed; this one, {sys.executable}, is"
            f" {platform.python_version()}.\n"
            f"Name another one:  make PYTHON=/path/to/python{wanted}"
        )


def check_host(profile: Profile, root: Path) -> None:
    """Refuse a machine that the environment cannot work on, before anything is downloaded."""
    if profile.linux_x86_64_only and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"The {profile.name} environment exists for Linux on x86-64 only: Intel publishes its"
            " PyTorch extension for nothing else.\nThe upstream one (make test) works here."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"This Python {version} comes without venv and ensurepip.\n"
            f"On Debian or Ubuntu:  apt-get install python{version}-venv"
        ) from None
    free = shutil.disk_usage(root).free / 2**30
    if free < profile.free_gib:
        raise SetupError(
            f"The {profile.name} environment takes up to {profile.free_gib:g} GiB and {root} has"
            f" {free:.1f} GiB free.\nMake room there (make clean removes older environments)."
        )
