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
import hashlib
import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

SUBDIRS = ("linux-64", "noarch")
CHANNEL = "channel"
EXPLICIT = "explicit.txt"
REPODATA = "repodata.json"
# What the packages may count on: of all nodes, not of this one's processor (__archspec).
VIRTUAL = ("__unix", "__linux", "__glibc")
CHUNK = 1 << 20
TRIES = 3
QUIET_SECONDS = 60.0
"""A channel that sends nothing for as long has failed."""
SAY_EVERY_SECONDS = 1.0
SHOWN_CHARACTERS = 300

Result = TypeVar("Result")


class Refused(Exception):
    """What cannot be done, in one line."""


class Download:
    """The packages on their way in: what has arrived, and how long the rest will take.

    Attributes:
        arrived: bytes so far.
        total: bytes of all.
    """

    def __init__(self, total: int) -> None:
        self.total, self.arrived, self.name = total, 0, ""
        self._begun = time.monotonic()
        self._before = 0
        self._said = -SAY_EVERY_SECONDS

    def already(self, size: int) -> None:
        """So much needs not be fetched."""
        self.arrived += size
        self._before += size

    def add(self, size: int) -> None:
        """So much has come; negative: it was damaged, and comes again."""
        self.arrived += size
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_SECONDS:
            self._said = now
            print(self.line(now - self._begun), flush=True)

    def line(self, seconds: float) -> str:
        """How far it is after so many seconds."""
        text = f"{self.arrived / 1e6:.1f} of {self.total / 1e6:.1f} MB"
        fetched = self.arrived - self._before
        if fetched > 0 and seconds > 0:
            text += f", {(self.total - self.arrived) * seconds / fetched:.0f} s left"
        return f"{text}: {self.name}"


class _Writer:
    """Takes a package's bytes as py-rattler hands them over."""

    def __init__(self, path: Path, download: Download) -> None:
        self.file = path.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None
        self._download = download

    def write(self, piece: bytes) -> None:
        try:
            self.file.write(piece)
        except OSError as error:
            self.error = error  # What comes back from the library names no disk.
            raise
        self.digest.update(piece)
        self.size += len(piece)
        self._download.add(len(piece))

    def close(self) -> None:
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            self.error = error
        finally:
            self.file.close()


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
    nameless = [record.file_name for record in records if not record.sha256 or not record.size]
    if nameless:
        raise Refused(f"{shown(channel)} lists {nameless[0]} without its SHA-256 or its size")
    download = Download(sum(record.size for record in records))
    missing = []
    for record in sorted(records, key=lambda record: record.file_name):
        path = folder / record.subdir / record.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is(path, record):
            download.already(record.size)
        else:
            missing.append((record, path))
    for record, path in missing:
        download.name = record.name.normalized
        await _download(client, record, path, download)
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
        return await asyncio.wait_for(work, QUIET_SECONDS)
    except TimeoutError as error:
        raise Refused(f"nothing arrived for {QUIET_SECONDS:.0f} s") from error


async def _download(client: Any, record: Any, path: Path, download: Download) -> None:
    """Fetch one package beside its place, check it, and put it there."""
    partial = path.with_name(f"{path.name}.partial")
    problem = ""
    for _ in range(TRIES):
        writer = _Writer(partial, download)
        try:
            await _arrival(client, record.url, writer)
            problem = ""
        except (OSError, RuntimeError, ValueError) as error:
            problem = one_line(str(error))
        finally:
            writer.close()
        if writer.error:
            partial.unlink(missing_ok=True)
            raise writer.error
        if not problem and writer.digest.digest() == record.sha256:
            partial.replace(path)
            return
        download.add(-writer.size)
        partial.unlink(missing_ok=True)
        if not problem and writer.size == record.size:
            problem = (
                f"its SHA-256 is {writer.digest.hexdigest()[:12]}..., "
                f"and the channel lists {record.sha256.hex()[:12]}..."
            )
            break
        problem = f"{writer.size} of {record.size} bytes arrived" + (f": {problem}" * bool(problem))
    raise Refused(f"{record.file_name} from {shown(record.url)}: {problem}")


async def _arrival(client: Any, url: str, writer: _Writer) -> None:
    from rattler.package_streaming import download_to_writer

    if url.startswith("file:"):
        with Path(unquote(urlsplit(url).path)).open("rb") as file:
            while piece := file.read(CHUNK):
                writer.write(piece)
        return
    task = asyncio.ensure_future(download_to_writer(client, url, writer))
    try:
        while True:
            before = writer.size
            done, _ = await asyncio.wait({task}, timeout=QUIET_SECONDS)
            if done:
                task.result()
                return
            if writer.size == before:
                raise TimeoutError(f"nothing arrived for {QUIET_SECONDS:.0f} s")
    finally:
        task.cancel()


def _is(path: Path, record: Any) -> bool:
    """Whether a package lies there already, whole."""
    return path.is_file() and path.stat().st_size == record.size and _sha256(path) == record.sha256


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.digest()


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
    (folder / CHANNEL).write_text(without_password(channel))
    lines = [
        without_password(record.url) + (f"#{record.md5.hex()}" if record.md5 else "")
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


def shown(url: str) -> str:
    """A URL without what nobody else may read."""
    parts = urlsplit(url)
    path = re.sub(r"^/t/[^/]+", "/t/***", parts.path)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, path, "", ""))


without_password = shown


def one_line(text: str) -> str:
    """Another program's words, short."""
    # The library's chains of causes end with what the system said.
    parts = [" ".join(line.split()).removeprefix("Caused by: ") for line in text.splitlines()]
    return "; ".join(dict.fromkeys(part for part in parts if part))[:SHOWN_CHARACTERS]


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
        return _fail(f"{shown(channel) or folder}: {one_line(str(error))}")
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
    print(f"error: {text}", file=sys.stderr)
    return 1


def run(argv: Sequence[str] | None = None) -> None:
    """`main`, for a process that ends with it: the library's threads may outlive their work."""
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
