"""The pictures of a folder, or one message that names every one that cannot be used."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from PIL import Image

from training.data.images import SUFFIXES, is_a_picture, open_picture
from training.errors import UserError

REPEATED = re.compile(r"(\d+)_.+")
"""The subfolders of kohya's and A1111's layout: repeats, and a name."""


@dataclass(frozen=True)
class Picture:
    """A training picture on disk.

    Attributes:
        path: where it is.
        digest: SHA-256 of the file's bytes.
        repeats: how often it is seen in an epoch, if its folder's name says so.
        size: width and height, upright; a huge picture's in the same proportion.
        subfolder: the name of its folder, without repeats, where these were asked for.
    """

    path: Path
    digest: str
    repeats: int | None = None
    size: tuple[int, int] = (1, 1)
    subfolder: str = ""


def find_pictures(
    folder: Path,
    skip_broken: bool,
    notify: Callable[[str], None],
    beside: Sequence[str] = (),
    subfolders: Sequence[str] | None = None,
) -> list[Picture]:
    """The pictures of `folder`, by name; files of other kinds are skipped.

    Where they lie in subfolders named `N_name`, as kohya's and A1111's tools want them, each is
    seen N times in an epoch.

    Args:
        skip_broken: leave out unreadable pictures, with a notice each, instead of raising.
        notify: called with a line for each file or folder left out.
        beside: patterns of the names of other files that belong here, and are not spoken of.
        subfolders: take the pictures of these, named so or `N_name`, and say whose each is;
            (): of all that have pictures.

    Raises:
        UserError: no folder, no pictures, or unreadable ones: every one of them is named.
    """
    if not folder.is_dir():
        raise UserError(f"train_data_dir {folder}: is not a folder.")
    places = _places(folder, notify, subfolders)
    files = [file for place in places for file in _files(place)]
    pictures, problems = [], []
    for file in files:
        name = file.relative_to(folder).as_posix()
        if not is_a_picture(file):
            if any(fnmatch(file.name, pattern) for pattern in beside):
                continue
            notify(f"{name} is skipped: not a picture.")
            continue
        try:
            size = open_picture(file).size
        except UserError as error:
            problems.append(name.removesuffix(file.name) + str(error))
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        where = "" if subfolders is None else _name_of(file.parent)
        pictures.append(Picture(file, digest, places[file.parent], size, where))
    if problems and not skip_broken:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(
            f"train_data_dir {folder}: {len(problems)} of {len(files)} files cannot be used:\n"
            f"{lines}\n  Replace or remove them, or leave them out with --skip_broken_images."
        )
    for problem in problems:
        notify(f"skipped: {problem}")
    if not pictures:
        raise UserError(
            f"train_data_dir {folder}: has no pictures in it "
            f"({', '.join(sorted(SUFFIXES))}). Three to five of one thing are enough."
        )
    return pictures


def first_pictures(
    folder: Path, count: int, subfolders: Sequence[str] | None = None
) -> list[Image.Image]:
    """The first `count` pictures of `folder` that can be read, by name; the others stay closed.

    Args:
        subfolders: as in `find_pictures`; of each one in turn.

    Raises:
        UserError: pictures are in several places, or in subfolders of another layout.
    """
    pictures: list[Image.Image] = []
    if not folder.is_dir():
        return pictures
    files = [_files(place) for place in _places(folder, lambda text: None, subfolders)]
    if subfolders is not None:
        files = [[file for file in each if file] for each in itertools.zip_longest(*files)]
    for file in itertools.chain(*files):
        if len(pictures) == count:
            return pictures
        with contextlib.suppress(UserError):
            pictures.append(open_picture(file))
    return pictures


def _places(
    folder: Path, notify: Callable[[str], None], subfolders: Sequence[str] | None = None
) -> dict[Path, int | None]:
    """Where the pictures are: the folder itself, or its `N_name` subfolders with their N.

    Args:
        subfolders: as in `find_pictures`: then they are in these.

    Raises:
        UserError: in both, or in other subfolders alone.
    """
    inside = {
        path: count
        for path in sorted(folder.iterdir())
        if path.is_dir()
        and path.name[0] != "."
        and (count := sum(is_a_picture(file) for file in _files(path)))
    }
    if subfolders is not None:
        return _named_places(folder, list(inside), subfolders, notify)
    repeats = {path: int(found[1]) for path in inside if (found := REPEATED.fullmatch(path.name))}
    others = [path for path in inside if not repeats.get(path)]
    named = ", ".join(f"{path.name}/ ({inside[path]})" for path in others)
    here = any(is_a_picture(file) for file in _files(folder))
    used: dict[Path, int | None] = {path: count for path, count in repeats.items() if count}
    if here and used:
        raise UserError(
            f"train_data_dir {folder}: has pictures both in it and in "
            f"{', '.join(f'{path.name}/' for path in used)}. Put them into one place."
        )
    if named and not here and not used:
        raise UserError(
            f"train_data_dir {folder}: has no pictures in it, but in its subfolders: {named}. "
            "Give one of these, or name them 10_cat, where 10 is how often each is seen."
        )
    if named:
        notify(f"skipped, with their pictures: {named}")
    return used or {folder: None}


def _named_places(
    folder: Path, inside: list[Path], names: Sequence[str], notify: Callable[[str], None]
) -> dict[Path, int | None]:
    """The subfolders of these names, with or without repeats; of no names all of `inside`.

    Raises:
        UserError: pictures are beside them, or one of them has none.
    """
    if any(is_a_picture(file) for file in _files(folder)):
        raise UserError(
            f"train_data_dir {folder}: has pictures in it, but those of several words are each in "
            "the subfolder of its word. Put them there."
        )
    used = [path for path in inside if not names or _name_of(path) in names]
    lacking = [name for name in names if name not in map(_name_of, used)]
    if lacking or not used:
        there = ", ".join(f"{path.name}/" for path in inside) or "none"
        wanted = f"{lacking[0]}/" if lacking else "in which pictures are"
        raise UserError(
            f"train_data_dir {folder}: has no subfolder {wanted} (with pictures it has: {there}). "
            "Each word is learned from the subfolder of its name."
        )
    if left := [path for path in inside if path not in used]:
        notify(f"skipped, with their pictures: {', '.join(f'{path.name}/' for path in left)}")
    return {path: _repeats_of(path) for path in used}


def _name_of(folder: Path) -> str:
    """A subfolder's name without repeats."""
    return folder.name.split("_", 1)[1] if REPEATED.fullmatch(folder.name) else folder.name


def _repeats_of(folder: Path) -> int | None:
    found = REPEATED.fullmatch(folder.name)
    return (int(found[1]) or None) if found else None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")


def one_pass(pictures: list[Picture]) -> tuple[int, ...]:
    """The index of each picture, as often as it is seen relative to the others."""
    repeats = [picture.repeats or 1 for picture in pictures]
    common = math.gcd(*repeats)
    return tuple(i for i, times in enumerate(repeats) for _ in range(times // common))


def repeated(pictures: list[Picture]) -> list[int]:
    """`one_pass`, where that is not each picture once; else empty."""
    order = list(one_pass(pictures))
    return order if len(order) > len(pictures) else []


def epoch_length(pictures: list[Picture], repeats: int) -> int:
    """How many pictures an epoch has: each `repeats` times, or as often as its folder says."""
    return sum(repeats if p.repeats is None else p.repeats for p in pictures)
