"""The environments: what goes into each, and where it and its lock file lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Profile:
    """One environment: what goes into it, and the name under which the Makefile finds it."""

    name: str
    link: str
    extras: tuple[str, ...]
    free_gib: float
    torch: str | None = None
    linux_x86_64_only: bool = False
    oneccl: str | None = None


PROFILES = {
    "upstream": Profile(
        name="upstream",
        link=".venv",
        extras=("train", "dev"),
        free_gib=4,
        torch="2.13.0",
    ),
    "intel": Profile(
        name="intel",
        link=".venv-intel",
        extras=("train", "intel", "dev"),
        free_gib=8,
        torch="2.8.0",
        linux_x86_64_only=True,
        oneccl="2.8.0",
    ),
    # Apart from the others: optimum-intel holds huggingface_hub to older releases.
    "openvino": Profile(
        name="openvino",
        link=".venv-openvino",
        extras=("train", "openvino", "playground", "browser", "dev"),
        free_gib=4,
        torch="2.13.0",
    ),
    # Apart from the one that trains: pulumi-azure-native alone takes as long to install as that.
    "cluster": Profile(
        name="cluster",
        link=".venv-cluster",
        extras=("infra", "bootstrap", "dev"),
        free_gib=2,
    ),
}


class SetupError(Exception):
    """A set-up that cannot go on; the message says what failed and what to do about it."""


def folder(root: Path) -> Path:
    """The folder in a checkout that holds its environments."""
    return root / ".venvs"


def lock_path(root: Path, profile: Profile) -> Path:
    """The file that pins every package of an environment."""
    return root / "requirements" / f"{profile.name}.txt"


def locked_versions(lock: Path) -> dict[str, str]:
    """The pinned version of each package in a lock file."""
    pin = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
    matches = (pin.match(line) for line in lock.read_text().splitlines())
    return {normal(match[1]): match[2] for match in matches if match}


def normal(name: str) -> str:
    """A package's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()
