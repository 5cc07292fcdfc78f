"""Where environments are built, and the link that leads to a finished one and to nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.environments.build import build
from scripts.environments.machine import check_host
from scripts.environments.profiles import PROFILES, Profile, SetupError, folder, lock_path
from scripts.environments.steps import Steps, say


def key(root: Path, profile: Profile) -> str:
    """A name for everything that an environment depends on.

    The checkout's own place is part of it: an environment's scripts hold absolute paths, so one
    that was copied or moved along with its checkout must not be taken for a working one.
    """
    digest = hashlib.sha256(lock_path(root, profile).read_bytes())
    for part in (sys.version, sys.base_prefix, platform.machine(), str(root)):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:12]


def is_ready(root: Path, profile: Profile) -> bool:
    """Whether the link leads to the finished environment that the lock file asks for."""
    home = folder(root) / f"{profile.name}-{key(root, profile)}"
    link = root / profile.link
    return (
        link.is_symlink()
        and os.readlink(link) == f"{home.parent.name}/{home.name}"
        and is_finished(home)
    )


def is_finished(home: Path) -> bool:
    """Whether a set-up ran to its end here, and the interpreter it was made with still exists."""
    return (home / "finished.json").is_file() and (home / "bin" / "python").exists()


def check_link(root: Path, profile: Profile) -> None:
    """Refuse to replace a `.venv` that somebody else made."""
    link = root / profile.link
    made_here = link.is_symlink() and os.readlink(link).startswith(f"{folder(root).name}/")
    if os.path.lexists(link) and not made_here:
        raise SetupError(
            f"{link} is already there, and this script did not make it: it is left as it is.\n"
            f"Move it away (mv {profile.link} {profile.link}.old) and run this again."
        )


@contextlib.contextmanager
def only_one(root: Path, profile: Profile) -> Iterator[int]:
    """Keep two set-ups of one environment apart; yields the lock's file descriptor.

    The descriptor is handed on to every program the set-up starts. A pip that outlives a killed
    set-up so holds the lock until it ends, and nobody clears the folder it still writes to.
    """
    folder(root).mkdir(exist_ok=True)
    path = folder(root) / f"{profile.name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "unknown"
            say(f"Another set-up of this environment runs (process {holder}); waiting.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def remove_unfinished(root: Path, profile: Profile) -> None:
    """Remove what a killed set-up left behind. The caller holds the lock."""
    for home in sorted(folder(root).glob(f"{profile.name}-*")):
        if not is_finished(home):
            say(f"Removing {home.relative_to(root)}, which an earlier set-up left half-made.")
            shutil.rmtree(home)


def flip(root: Path, profile: Profile, home: Path) -> None:
    """Point the link at an environment, in one move."""
    new = folder(root) / f"{profile.name}.link"
    new.unlink(missing_ok=True)
    new.symlink_to(f"{home.parent.name}/{home.name}", target_is_directory=True)
    os.replace(new, root / profile.link)


def set_up(root: Path, profile: Profile) -> None:
    """Make an environment, or find that it is already there; raises SetupError."""
    if not lock_path(root, profile).is_file():
        raise SetupError(f"{lock_path(root, profile)} is missing: is {root} the checkout?")
    if is_ready(root, profile):
        return
    check_link(root, profile)
    with only_one(root, profile) as lock:
        if is_ready(root, profile):
            return
        remove_unfinished(root, profile)
        home = folder(root) / f"{profile.name}-{key(root, profile)}"
        if not is_finished(home):
            check_host(profile, root)
            make(root, profile, home, lock)
        flip(root, profile, home)
        others = [other.name for other in folder(root).glob(f"{profile.name}-*") if other.is_dir()]
        others.remove(home.name)
        if others:
            # A training may still run in one of them, so they are not this script's to remove.
            say(f"Older environments are still in .venvs/ ({', '.join(sorted(others))}).")


def make(root: Path, profile: Profile, home: Path, lock: int) -> None:
    """Build an environment in its folder; on any failure the folder is gone again."""
    began = time.monotonic()
    say(f"Setting up {profile.link}, the {profile.name} environment. This is done once.")
    steps = Steps(folder(root) / f"{profile.name}.log", lock)
    try:
        build(root, profile, home, steps)
    except BaseException as error:
        shutil.rmtree(home, ignore_errors=True)
        if isinstance(error, SetupError):
            raise SetupError(
                f"{error}\nNothing half-made is left. Everything that was printed:"
                f" {steps.log.relative_to(root)}"
            ) from None
        raise
    say(f"{profile.link} is ready ({time.monotonic() - began:.0f} s).")


def clean(root: Path) -> None:
    """Remove the environments and their links, and nothing that this script did not make."""
    for profile in PROFILES.values():
        link = root / profile.link
        with only_one(root, profile):
            if link.is_symlink() and os.readlink(link).startswith(f"{folder(root).name}/"):
                link.unlink()
            elif os.path.lexists(link):
                say(f"{profile.link} was not made by this script and stays.")
            for home in sorted(folder(root).glob(f"{profile.name}-*")):
                say(f"Removing {home.relative_to(root)}")
                shutil.rmtree(home)
            (folder(root) / f"{profile.name}.log").unlink(missing_ok=True)
