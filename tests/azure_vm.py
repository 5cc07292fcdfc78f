"""A stand-in for what a VM in Azure sees of it: the metadata service and the resource manager."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar

import pytest


class Azure(BaseHTTPRequestHandler):
    """The metadata service and the resource manager in one; `refused` VMs answer 403."""

    asked: list[str]
    refused: set[str]
    once: ClassVar[set[str]] = set()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        type(self).asked.append(f"{self.command} {path} {self.headers.get('Authorization', '-')}")
        code, body = 200, "{}"
        if path.endswith("/instance/compute"):
            body = '{"subscriptionId": "s", "resourceGroupName": "g"}'
        elif path.endswith("/oauth2/token"):
            body = '{"access_token": "t0ken"}'
        elif any(vm in path for vm in type(self).refused):
            type(self).refused -= {vm for vm in type(self).once if vm in path}
            code, body = 403, '{"error": "AuthorizationFailed"}'
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def in_azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Azure]]:
    """Programs that are started meanwhile take this machine for a VM in Azure."""
    Azure.asked, Azure.refused, Azure.once = [], set(), set()
    server = HTTPServer(("127.0.0.1", 0), Azure)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("XEON_DIFFUSION_METADATA", f"{here}/metadata")
    monkeypatch.setenv("XEON_DIFFUSION_ARM", here)
    try:
        yield Azure
    finally:
        server.shutdown()
        server.server_close()
