"""A stand-in for Azure Resource Manager on the loopback interface, over TLS as the real one is."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.azure.arm import Azure

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
OWN = {"subscriptionId": SUBSCRIPTION, "displayName": "Ana's", "state": "Enabled"}
IMAGE = "/publishers/Canonical/artifacttypes/vmimage/offers/ubuntu-24_04-lts"
VERSIONS = f"{IMAGE}/skus/server/versions"
SKU: dict[str, Any] = {
    "resourceType": "virtualMachines",
    "name": "Standard_D16s_v5",
    "family": "standardDSv5Family",
    "locations": ["eastus"],
    "locationInfo": [{"location": "eastus", "zones": ["1", "2", "3"]}],
    "capabilities": [
        {"name": "vCPUs", "value": "16"},
        {"name": "HyperVGenerations", "value": "V1,V2"},
        {"name": "AcceleratedNetworkingEnabled", "value": "True"},
        {"name": "PremiumIO", "value": "True"},
    ],
    "restrictions": [],
}


@dataclass(frozen=True)
class Answer:
    """What the server says once instead of the truth.

    Attributes:
        status: HTTP status.
        body: sent as it is.
        headers: added.
        delay: seconds before it answers.
        torn: bytes of the body that are sent before the connection is cut.
    """

    status: int
    body: bytes = b'{"error": {"code": "Planted", "message": "planted"}}'
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    torn: int | None = None


class ArmServer(ThreadingHTTPServer):
    """One subscription.

    Attributes:
        asked: (method, path) of every request.
        planted: answers by a part of the path, each used up from the front.
        power: power state by VM name; what is not in it does not exist.
        priority: Regular or Spot, of every VM.
        usage: (limit, current value) of the quota by name.
        sku: the size on offer.
        actions: what the account may do.
        registration: state of the resource providers.
        versions: versions of the image.
        agent_after: questions about a VM until its agent answers.
    """

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.planted: dict[str, list[Answer]] = {}
        self.power: dict[str, str] = {}
        self.priority = "Regular"
        self.usage = {
            "cores": (100, 10),
            "standardDSv5Family": (100, 10),
            "lowPriorityCores": (100, 0),
        }
        self.sku: dict[str, Any] = json.loads(json.dumps(SKU))
        self.actions = {"actions": ["*"], "notActions": ["Microsoft.Authorization/*/Write"]}
        self.registration = "Registered"
        self.versions = ["24.04.202609040"]
        self.generation = "V2"
        self.agent_after = 1
        self.views: dict[str, int] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a test cuts are not news."""

    @property
    def endpoint(self) -> str:
        """What ARM's address must be."""
        return f"https://127.0.0.1:{self.server_address[1]}"


class Credential:
    """Gives out a token as azure-identity does."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """A token for an hour."""
        return AccessToken("token", int(time.time()) + 3600)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[ArmServer, Azure]]:
    """The server, and an `Azure` that talks to it, for the length of the block."""
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ArmServer(context)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    options = {
        "connection_verify": str(certificate),
        "connection_timeout": 2,
        "read_timeout": 1,
        "retry_total": 2,
        "retry_backoff_factor": 0.01,
    }
    try:
        yield server, Azure(Credential(), SUBSCRIPTION, server.endpoint, options)
    finally:
        server.shutdown()
        server.server_close()


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return file


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ArmServer

    def do_GET(self) -> None:  # the base class's spelling
        self._answer()

    def do_HEAD(self) -> None:  # the base class's spelling
        self._answer()

    def do_POST(self) -> None:  # the base class's spelling
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """The tests read `ArmServer.asked` instead."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path))
        self.server.times.append(time.monotonic())
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer token":
            self._send(Answer(401))
            return
        for part, answers in self.server.planted.items():
            if part in path and answers:
                self._send(answers.pop(0))
                return
        self._send(self._truth(path.removeprefix(f"/subscriptions/{SUBSCRIPTION}")))

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.torn])
        self.close_connection = answer.torn is not None

    def _truth(self, path: str) -> Answer:
        server = self.server
        ends: dict[str, Callable[[], object]] = {
            "/permissions": lambda: {"value": [server.actions]},
            "/skus": lambda: {"value": [server.sku]},
            "/usages": lambda: {
                "value": [
                    {"name": {"value": name}, "limit": limit, "currentValue": used, "unit": "Count"}
                    for name, (limit, used) in server.usage.items()
                ]
            },
            "/versions": lambda: [{"name": name, "location": "eastus"} for name in server.versions],
            "/providers/Microsoft.Compute": lambda: {"registrationState": server.registration},
            "/providers/Microsoft.Network": lambda: {"registrationState": server.registration},
            "/providers/Microsoft.DevTestLab": lambda: {"registrationState": "NotRegistered"},
            "/subscriptions": lambda: {"value": [OWN]},
            "/done": lambda: {"status": "Succeeded"},
        }
        if path == "":
            return _json(OWN)
        if f"{VERSIONS}/" in path:
            version = path.rpartition("/")[2]
            if version not in server.versions:
                return Answer(404)
            about = {"hyperVGeneration": server.generation}
            return _json({"name": version, "location": "eastus", "properties": about})
        if path.endswith(("/deallocate", "/start")):
            *_, name, verb = path.split("/")
            server.power[name] = "deallocated" if verb == "deallocate" else "running"
            address = f"{server.endpoint}/subscriptions/{SUBSCRIPTION}/operations/{name}/done"
            return Answer(202, b"", (("Azure-AsyncOperation", address), ("Location", address)))
        if path.endswith("/retrieveBootDiagnosticsData"):
            name = path.split("/")[-2]
            return _json({"serialConsoleLogBlobUri": f"https://logs.invalid/{name}?sig=x"})
        if self.command == "GET" and path.rpartition("/")[0].endswith("/virtualMachines"):
            name = path.rpartition("/")[2]
            if name not in server.power:
                return Answer(404)
            statuses = [{"code": f"PowerState/{server.power[name]}"}]
            shown: dict[str, Any] = {
                "priority": server.priority,
                "instanceView": {"statuses": statuses},
            }
            return _json({"name": name, "location": "eastus", "properties": shown})
        if path.endswith("/instanceView"):
            name = path.split("/")[-2]
            server.views[name] = server.views.get(name, 0) + 1
            ready = server.views[name] > server.agent_after
            code = f"ProvisioningState/{'succeeded' if ready else 'Unavailable'}"
            return _json({"vmAgent": {"statuses": [{"code": code}]}})
        for end, make in ends.items():
            if path.endswith(end):
                return _json(make())
        return Answer(404)


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode())
