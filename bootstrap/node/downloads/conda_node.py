"""Runs on a node, in any Python from 3.10: conda packages by py-rattler, conda's own library.

    ... fetch WHEELS FOLDER            on the head: {"channel", "specs"} as JSON on standard input
    ... install WHEELS FOLDER PREFIX

`fetch` solves against the channel and fills FOLDER, which is a channel itself afterwards: a node
that has it needs no network to `install`. Whole packages of an attempt that was cut short are kept.
WHEELS is where py-rattler's wheel lies: this is the one module here that imports what is neither
the standard library's nor in the environment, which does not exist yet.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bootstrap.node.downloads.conda_packages import (
    TRIES,
    Download,
    Refused,
    fetch_package,
    is_whole,
    one_line,
)
from bootstrap.urls import shown, stored

SUBDIRS = ("linux-64", "noarch")
CHANNEL = "channel"
EXPLICIT = "explicit.txt"
REPODATA = "repodata.json"
# What the packages may count on: of all nodes, not of this one's processor (__archspec).
VIRTUAL = ("__unix", "__linux", "__glibc")
LIST_SECONDS = 600.0
"""conda-forge's, where it does not come in pieces, is 50 MB."""

FILE_NAME = re.compile(r"[\w.+!-]+\.(conda|tar\.bz2)")

Result = TypeVar("Result")


async def fetch(folder: Path, channel: str, specs: Sequence[str], scratch: Path) -> None:
    """Solve, fetch what is not there yet, and write what makes the folder a channel.

    Raises:
        Refused: the channel does not answer, has no such packages, or sends others.
    """
    from rattler import Channel, Gateway
    from rattler.networking import Client

    client = Client.default_client(max_retries=TRIES - 1)
    gateway = Gateway(cache_dir=scratch / "repodata", client=client)
    print(f"solving: {', '.join(specs)}", flush=True)
    source = Channel(channel)
    records = await _solved(gateway, source, specs)
    for record in records:
        if not record.sha256 or not record.size:
            raise Refused(f"{shown(channel)} lists {record.file_name} without SHA-256 or size")
        if record.subdir not in SUBDIRS or not FILE_NAME.fullmatch(record.file_name):
            raise Refused(f"{shown(channel)} lists {record.file_name}, which names no package")
    download = Download(sum(record.size for record in records))
    missing = []
    for record in sorted(records, key=lambda record: record.file_name):
        path = folder / record.subdir / record.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_whole(path, record):
            download.already(record.size)
        else:
            missing.append((record, path))
    for record, path in missing:
        download.name = record.name.normalized
        await fetch_package(client, record, path, download)
    _write_channel(folder, channel, records)


async def _solved(gateway: Any, source: Any, specs: Sequence[str]) -> list[Any]:
    from rattler import VirtualPackage, solve
    from rattler.exceptions import SolverError

    virtual = [
        package
        for package in (found.into_generic() for found in VirtualPackage.detect())
        if package.name.normalized in VIRTUAL
    ]
    try:
        return list(
            await _in_time(
                solve([source], specs, gateway, platforms=SUBDIRS, virtual_packages=virtual)
            )
        )
    except SolverError as error:
        there = await _in_time(gateway.names([source], SUBDIRS))
        names = sorted(name.normalized for name in there)
        raise Refused(unsolvable(shown(source.base_url), specs, names, str(error))) from error


def unsolvable(channel: str, specs: Sequence[str], names: Sequence[str], said: str) -> str:
    """Why there is no solution: a name that the channel does not have, and those nearest to it."""
    for spec in specs:
        name = re.split(r"[ =<>!~\[]", spec, maxsplit=1)[0]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3)
            nearest = f"nearest: {', '.join(near)}" if near else "nothing there is named like it"
            return f"{channel} has no package {name} ({nearest})"
    return f"{channel} has no packages that fit together: {one_line(said)}"


async def _in_time(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await asyncio.wait_for(work, LIST_SECONDS)
    except asyncio.TimeoutError as error:  # noqa: UP041 (another class in Python 3.10)
        raise Refused(f"its list of packages did not arrive in {LIST_SECONDS:.0f} s") from error


def _write_channel(folder: Path, channel: str, records: Sequence[Any]) -> None:
    """What the packages are: for this module, and for conda, to which the folder is a channel."""
    listed = {record.file_name for record in records}
    for subdir in SUBDIRS:
        (folder / subdir).mkdir(exist_ok=True)
        for path in (folder / subdir).iterdir():
            if path.name not in listed:
                path.unlink()  # What an earlier attempt found, and this one did not.
        repodata: dict[str, Any] = {
            "info": {"subdir": subdir},
            "packages": {},
            "packages.conda": {},
            "repodata_version": 1,
        }
        for record in records:
            if record.subdir == subdir:
                about = json.loads(record.to_json())
                for key in ("fn", "url", "channel"):
                    about.pop(key, None)
                kind = "packages.conda" if record.file_name.endswith(".conda") else "packages"
                repodata[kind][record.file_name] = about
        (folder / subdir / REPODATA).write_text(json.dumps(repodata, indent=1, sort_keys=True))
    (folder / CHANNEL).write_text(stored(channel))
    lines = [
        stored(record.url) + (f"#{record.md5.hex()}" if record.md5 else "")
        for record in sorted(records, key=lambda record: record.file_name)
    ]
    (folder / EXPLICIT).write_text("\n".join(["# platform: linux-64", "@EXPLICIT", *lines, ""]))


async def install(folder: Path, prefix: Path, scratch: Path) -> None:
    """Make an environment of a folder that `fetch` filled; asks nothing of the network.

    Raises:
        Refused: a package is not what the folder says of it.
    """
    import rattler
    from rattler.package_streaming import extract

    source = rattler.Channel((folder / CHANNEL).read_text())
    records = []
    for subdir in SUBDIRS:
        data = rattler.SparseRepoData(source, subdir, folder / subdir / REPODATA)
        for record in data.load_all_records():
            # Unpacked where the library looks before it asks the channel.
            stem = re.sub(r"\.(conda|tar\.bz2)$", "", record.file_name)
            sha256, _ = extract(folder / subdir / record.file_name, scratch / stem)
            if sha256 != record.sha256:
                raise Refused(f"{folder / subdir / record.file_name} is damaged")
            records.append(record)
    await rattler.install(records, prefix, cache_dir=scratch, show_progress=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Do one of the two, in a folder of its own that is gone afterwards."""
    command, wheels, folder, *more = list(sys.argv[1:] if argv is None else argv)
    scratch = Path(f"{more[0] if more else folder}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    channel = ""
    try:
        (scratch / "packages").mkdir(parents=True)
        sys.path.insert(0, str(_unpacked(Path(wheels), scratch / "library")))
        if command == "fetch":
            asked = json.load(sys.stdin)
            channel = asked["channel"]
            Path(folder).mkdir(parents=True, exist_ok=True)
            asyncio.run(fetch(Path(folder), channel, asked["specs"], scratch))
        else:
            asyncio.run(install(Path(folder), Path(more[0]), scratch / "packages"))
    except Refused as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or folder}: {error.strerror or error}")
    except Exception as error:  # The library's errors have no class in common.
        return _fail(shown(f"{channel or folder}: {one_line(str(error))}"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _unpacked(wheels: Path, target: Path) -> Path:
    """py-rattler, whose machine code cannot be imported out of its wheel."""
    (wheel,) = wheels.glob("py_rattler-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def _fail(text: str) -> int:
    print(f"error: {one_line(text)}", file=sys.stderr)
    return 1


def run(argv: Sequence[str] | None = None) -> None:
    """`main`, for a process that ends with it: the library's threads may outlive their work."""
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
