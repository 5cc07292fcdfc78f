"""A stand-in for the Hugging Face hub, for the real client to talk to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories of models and of datasets.

    Attributes:
        repositories: by name, such as "stable-diffusion-v1-5/stable-diffusion-v1-5"; the name of
            a dataset's begins with "datasets/", as its paths on the hub do.
        sent: bytes of files handed out so far.
        requests: (method, path) of every request so far.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path], address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.repositories = repositories
        self.sent = 0
        self.requests: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


@contextmanager
def serving(
    models: dict[str, Path],
    datasets: dict[str, Path] | None = None,
    address: str = "127.0.0.1",
) -> Iterator[Hub]:
    """A hub for the length of the block, with these folders by their names."""
    repositories = models | {f"datasets/{name}": path for name, path in (datasets or {}).items()}
    hub = Hub(repositories, address)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:  # the base class's spelling
        self._answer(with_body=False)

    def do_GET(self) -> None:  # the base class's spelling
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """The tests read `Hub.requests` instead."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append((self.command, path))
        for name, folder in self.server.repositories.items():
            api = f"api/{name}" if name.startswith("datasets/") else f"api/models/{name}"
            if path == api or path.startswith(f"{api}/"):
                self._send_json(self._about(name, folder, path), with_body)
                return
            if path.startswith(f"{name}/resolve/"):
                file = folder / path.removeprefix(f"{name}/resolve/").split("/", 1)[1]
                if file.is_file():
                    self._send_file(file, with_body)
                    return
                self._refuse("EntryNotFound")
                return
        self._refuse("RepoNotFound")

    def _about(self, name: str, folder: Path, path: str) -> object:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if "/tree/" in path:
            return [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": COMMIT}
                for n, f in zip(names, files, strict=True)
            ]
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}

    def _send_file(self, file: Path, with_body: bool) -> None:
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        # A client whose download was cut asks for the rest.
        resumed = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(resumed[1]) if resumed and int(resumed[1]) < len(body) else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:])
            self.server.sent += len(body) - start

    def _send_json(self, value: object, with_body: bool) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
