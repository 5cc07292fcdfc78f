"""A stand-in for the Hugging Face hub, for the real client to talk to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories of models and of datasets.

    Attributes:
        repositories: by name, such as "stable-diffusion-v1-5/stable-diffusion-v1-5"; the name of
            a dataset's begins with "datasets/", as its paths on the hub do.
        sent: bytes of files handed out so far.
        requests: (method, path) of every request so far.
        writers: who may write to repositories of their own, by token.
        uploads: what they have uploaded: repository -> file -> content.
        refuses_uploads: whether it takes nothing more.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path], address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.repositories = repositories
        self.sent = 0
        self.requests: list[tuple[str, str]] = []
        self.writers: dict[str, str] = {}
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.refuses_uploads = False

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

    def do_POST(self) -> None:  # the base class's spelling
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        repository, _, what = path.removeprefix("api/models/").rpartition("/")[0].rpartition("/")
        if path == "api/validate-yaml":
            self._send_json({"errors": [], "warnings": []}, True)
        elif path == "api/repos/create" and (user := self._user()):
            self._create(f"{json.loads(body)['organization'] or user}/{json.loads(body)['name']}")
        elif not self._may_write(repository) or self.server.refuses_uploads:
            self._refuse("", 403 if self._user() else 401)
        elif what == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self._send_json({"files": files}, True)
        else:
            self._commit(repository, [json.loads(line) for line in body.splitlines()])

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.server.writers.get(token)

    def _may_write(self, repository: str) -> bool:
        user = self._user()
        return bool(user) and repository.startswith(f"{user}/")

    def _create(self, name: str) -> None:
        """A repository that is there already is a conflict, which clients may ask to pass over."""
        known = name in self.server.uploads or name in self.server.repositories
        if not known and not self._may_write(name):
            self._refuse("", 403)
            return
        self.server.uploads.setdefault(name, {})
        self._send_json({"url": f"{self.server.endpoint}/{name}"}, True, 409 if known else 200)

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.uploads[repository][line["value"]["path"]] = content
        self._send_json({"commitUrl": f"{self.server.endpoint}/{repository}/commit/{COMMIT}",
                         "commitOid": COMMIT}, True)  # fmt: skip

    def log_message(self, format: str, *args: object) -> None:
        """The tests read `Hub.requests` instead."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append((self.command, path))
        if path.endswith("/auth-check/write"):
            self._check_write(path.removeprefix("api/models/").removesuffix("/auth-check/write"))
            return
        if any(path.startswith(f"{name}/resolve/") for name in self.server.uploads):
            self._refuse("EntryNotFound")
            return
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

    def _check_write(self, repository: str) -> None:
        if self._may_write(repository):
            self._send_json({}, True)
        else:
            self._refuse("", 403)

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

    def _send_json(self, value: object, with_body: bool, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _refuse(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
