"""Runs on a node, beside `conda_node`: conda packages on their way in, checked as they come."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bootstrap.urls import shown

CHUNK = 1 << 20
TRIES = 3
QUIET_SECONDS = 60.0
"""A channel that sends nothing for as long has failed."""
SAY_EVERY_SECONDS = 1.0
SHOWN_CHARACTERS = 500


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


async def fetch_package(client: Any, record: Any, path: Path, download: Download) -> None:
    """Fetch one package beside its place, check it, and put it there."""
    partial = path.with_name(f"{path.name}.partial")
    problem = ""
    for _ in range(TRIES):
        writer = _Writer(partial, download)
        try:
            await _arrival(client, record.url, writer)
            problem = ""
        except Exception as error:  # The library's errors have no class in common.
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


def is_whole(path: Path, record: Any) -> bool:
    """Whether a package lies there already, whole."""
    return path.is_file() and path.stat().st_size == record.size and _sha256(path) == record.sha256


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.digest()


def one_line(text: str) -> str:
    """Another program's words, short and without what moves a cursor."""
    # The library's chains of causes end with what the system said.
    parts = [" ".join(line.split()).removeprefix("Caused by: ") for line in text.splitlines()]
    line = "; ".join(dict.fromkeys(part for part in parts if part))[:SHOWN_CHARACTERS]
    return "".join(letter if letter.isprintable() else "?" for letter in line)
