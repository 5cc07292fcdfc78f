"""What the person's machine itself brings to the nodes: the checkout's code, and a pip."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bootstrap.setup.python.pip_zip import NAME as PIP_ZIP
from bootstrap.setup.python.pip_zip import pack_pip
from bootstrap.setup.python.project_wheel import build

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host


@dataclass(frozen=True)
class Payload:
    """A folder with the project's wheel and a packed pip.

    Attributes:
        folder: on the person's machine.
        wheel: the project's wheel's file name.
        key: of all its bytes.
    """

    folder: Path
    wheel: str
    key: str

    def path(self, host: Host) -> str:
        """Where it lies on every node."""
        return f"{host.layout.wheels}/payload-{self.key}"

    def pip(self, host: Host) -> str:
        """The packed pip on a node."""
        return f"{self.path(host)}/{PIP_ZIP}"


def make_payload(checkout: Path, folder: Path) -> Payload:
    """Build what the nodes get from here; a second time nothing is built.

    Args:
        checkout: the project's.
        folder: the person's records of the cluster.

    Raises:
        UserError: the wheel could not be built.
    """
    wheel = build(checkout, folder / "project")
    payload = folder / "payload"
    pip = pack_pip(payload)
    for older in payload.glob("*.whl"):
        older.unlink()
    shutil.copyfile(wheel, payload / wheel.name)
    digest = hashlib.sha256(wheel.read_bytes() + pip.read_bytes()).hexdigest()
    return Payload(payload, wheel.name, digest[:12])


def send_payload(head: Host, payload: Payload) -> str:
    """Bring it to the head, unless it is there; returns its folder."""
    path = payload.path(head)
    if not head.exists(path, "d"):
        head.run(["mkdir", "-p", head.layout.wheels])
        head.send(payload.folder, f"{path}.sending", exact=True)
        head.run(["mv", "-T", f"{path}.sending", path])
    return path
