"""Stand-ins for what hosts fetch from the internet, for the real clients to talk to.

They listen on this machine's end of the head's uplink, so only the head reaches them. Each counts
what it hands out and can be told to fail in the ways that real servers do.
"""

from __future__ import annotations

import hashlib
import html
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

Fault = Literal["error", "torn", "wrong", "slow", "refused"]
PIECE = 1 << 18


class FileServer:
    """Serves a folder: files by their paths, folders as pages of links (pip's --find-links).

    Attributes:
        sent: bytes of content handed out, by path.
        clients: the same by the client's address.
        requests: (method, path) of every request so far.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self._fault: tuple[Fault, str] | None = None
        self._bytes_per_second = 0.0
        self._lock = threading.Lock()
        self._server: _Server | None = _Server((address, 0), self)
        self._place: tuple[str, int] = (address, int(self._server.server_address[1]))

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self._place[0]}:{self._place[1]}"

    @property
    def total(self) -> int:
        """Bytes handed out so far."""
        return sum(self.clients.values())

    def fail(self, fault: Fault, only: str = "", bytes_per_second: float = 100_000) -> None:
        """From now on, and for paths that contain `only`, answer wrongly.

        error: status 500. torn: the connection ends half-way through the content. wrong: content
        of the right length that is not the file's. slow: at `bytes_per_second`. refused: nobody
        listens at all.
        """
        self._fault = (fault, only)
        self._bytes_per_second = bytes_per_second
        if fault == "refused":
            self.close()

    def mend(self) -> None:
        """Answer rightly again."""
        self._fault = None
        if not self._server:
            self._server = _Server(self._place, self)

    def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.stop()
        self._server = None

    def page(self, path: str) -> bytes | Path | None:
        """What lies at a path: a page, a file, or nothing."""
        file = (self.folder / path).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            return None
        if file.is_dir():
            return links({p.name + "/" * p.is_dir(): p.name for p in sorted(file.iterdir())})
        return file if file.is_file() else None

    def fault_at(self, path: str) -> Fault | None:
        """How to fail there."""
        if self._fault and self._fault[1] in path:
            return self._fault[0]
        return None

    def wait_for(self, count: int) -> None:
        """The time that `count` bytes take on a slow server."""
        time.sleep(count / self._bytes_per_second)

    def count(self, client: str, path: str, count: int) -> None:
        """Remember what was handed out."""
        with self._lock:
            self.sent[path] += count
            self.clients[client] += count


class PackageIndex(FileServer):
    """A package index (PEP 503) over a folder of wheels, with their digests."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self._digests: dict[tuple[str, int, int], str] = {}
        super().__init__(folder, address)

    @property
    def simple(self) -> str:
        """What pip's --index-url must be."""
        return f"{self.url}/simple/"

    def page(self, path: str) -> bytes | Path | None:
        """Project pages under simple/, the wheels themselves under files/."""
        if path == "simple":
            return links(
                {f"{name}/": name for name in sorted({_project(w) for w in self._wheels()})}
            )
        if path.startswith("simple/"):
            name = path.removeprefix("simple/")
            wheels = [wheel for wheel in self._wheels() if _project(wheel) == name]
            targets = {
                f"../../files/{quote(w.name)}#sha256={self._digest(w)}": w.name for w in wheels
            }
            return links(targets) if wheels else None
        if path.startswith("files/"):
            return super().page(path.removeprefix("files/"))
        return None

    def _wheels(self) -> list[Path]:
        return sorted(self.folder.glob("*.whl"))

    def _digest(self, wheel: Path) -> str:
        about = wheel.stat()
        key = (wheel.name, about.st_size, about.st_mtime_ns)
        if key not in self._digests:
            with wheel.open("rb") as stream:
                self._digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digests[key]


@contextmanager
def serving_packages(folder: Path, address: str = "127.0.0.1") -> Iterator[PackageIndex]:
    """A package index for the length of the block."""
    index = PackageIndex(folder, address)
    try:
        yield index
    finally:
        index.close()


def links(targets: dict[str, str]) -> bytes:
    """A page of links: target -> what is written there."""
    body = "".join(
        f'<a href="{html.escape(t)}">{html.escape(n)}</a><br>\n' for t, n in targets.items()
    )
    return f"<!DOCTYPE html><html><body>\n{body}</body></html>\n".encode()


def _project(wheel: Path) -> str:
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, place: tuple[str, int], files: FileServer) -> None:
        super().__init__(place, _Handler)
        self.files = files
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:  # the base class's spelling
        self._answer(with_body=False)

    def do_GET(self) -> None:  # the base class's spelling
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `requests` instead."""

    def _answer(self, with_body: bool) -> None:
        files = self.server.files
        path = unquote(urlsplit(self.path).path).strip("/")
        files.requests.append((self.command, path))
        fault = files.fault_at(path)
        page = files.page(path)
        if fault == "error" or page is None:
            self.send_error(500 if fault == "error" else 404)
            return
        size = len(page) if isinstance(page, bytes) else page.stat().st_size
        start = self._start(size)
        self.send_response(206 if start else 200)
        kind = "text/html" if isinstance(page, bytes) else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if with_body:
            end = (start + size) // 2 if fault == "torn" else size
            for piece in _pieces(page, start, end):
                if fault == "slow":
                    files.wait_for(len(piece))
                self.wfile.write(piece[::-1] if fault == "wrong" else piece)
                files.count(self.client_address[0], path, len(piece))
        self.close_connection = self.close_connection or fault == "torn"

    def _start(self, size: int) -> int:
        """Where a client that resumes wants to go on."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match and int(match[1]) < size else 0


def _pieces(page: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(page, bytes):
        yield page[start:end]
        return
    with page.open("rb") as stream:
        stream.seek(start)
        while start < end and (piece := stream.read(min(PIECE, end - start))):
            start += len(piece)
            yield piece
