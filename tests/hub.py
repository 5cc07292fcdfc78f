"""A stand-in for the Hugging Face hub on the loopback interface, for the real client to talk to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as model repositories.

    Attributes:
        repositories: by name, such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
        requests: (method, path) of every request so far.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub for the length of the block."""
    hub = Hub(repositories)
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
            if path.startswith(f"api/models/{name}"):
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
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

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
