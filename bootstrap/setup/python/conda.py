"""Environments made by conda: Python, tcmalloc and libiomp5 from conda-forge, the rest from wheels.

By py-rattler, conda's solver and installer as a library, which comes as a wheel and needs any
Python from 3.10. The head alone talks to the channel: it solves and fetches each package once. Its
folder of packages, copied to every node, is a channel itself, from which nodes install offline.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.node.downloads.conda_node import EXPLICIT
from bootstrap.setup.broadcast import PUT_IN_PLACE, Say
from bootstrap.setup.python.environment import Base
from bootstrap.ssh.command import script
from bootstrap.urls import secrets, shown

if TYPE_CHECKING:
    from bootstrap.setup.python.payload import Payload
    from bootstrap.ssh.host import Host

CHANNEL = "https://conda.anaconda.org/conda-forge"
# The Pythons that the locks hold wheels for.
# llvm-openmp's libiomp5.so is the runtime that Intel's own compiler package was built from.
SPECS = ("python >=3.11,<3.14", "gperftools", "llvm-openmp")
REPLACED = ("intel-openmp",)
"""Wheels that put a file where one of these packages has its own."""
WHEEL_PYTHON = "3.12"
"""Asked of the package index for py-rattler, whose one wheel is for every Python from 3.10."""
LOOK_SECONDS = 10

# The module's place is the checkout's own wheel: an environment that has it is yet to be made.
LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from bootstrap.node.downloads.conda_node import run; run()"
)
# Whether a channel answers; its URL is the standard input, as there may be a password in it.
LOOK = f"""
import sys, urllib.request
url = sys.stdin.read()
for name in ("repodata.json.zst", "repodata.json"):
    try:
        request = urllib.request.Request(url + "/noarch/" + name, method="HEAD")
        urllib.request.urlopen(request, timeout={LOOK_SECONDS}).close()
        sys.exit(0)
    except (OSError, ValueError):
        pass
sys.exit(1)
"""


def folder_of(host: Host) -> str:
    """Where the packages lie on every node."""
    return f"{host.layout.wheels}/channel-{hashlib.sha256(repr(SPECS).encode()).hexdigest()[:12]}"


def channel_answers(host: Host, python: str | None, channel: str = CHANNEL) -> bool:
    """Whether a node reaches a channel: what `--environment auto` goes by."""
    if python is None:
        return False
    asked = host.run([python, "-I", "-c", LOOK], stdin=channel.encode(), check=False)
    return asked.exit_code == 0


def node_line(python: str, payload: str, command: str, wheels: str, *folders: str) -> str:
    """The command that runs `conda_node` on a node.

    Args:
        python: any interpreter from 3.10 there.
        payload: the path of the project's wheel.
        command: "fetch" or "install".
        wheels: where py-rattler's wheel lies.
        folders: the packages', and the environment's.
    """
    return shlex.join([python, "-I", "-B", "-c", LAUNCH, payload, command, wheels, *folders])


def fetch(head: Host, payload: Payload, python: str, wheels: str, channel: str, say: Say) -> str:
    """Bring the packages to the head, unless they are there; returns their folder.

    Args:
        payload: sent to the head.
        python: any interpreter from 3.10 there.
        wheels: where py-rattler's wheel lies.
        channel: its URL.

    Raises:
        UserError: the channel does not answer, lacks a package, or sends what it did not list.
    """
    head.hide(secrets(channel))
    target = folder_of(head)
    if not head.exists(target, "d"):
        filling = f"{target}.fetching"
        head.run(["mkdir", "-p", filling])
        finished = head.run(
            node_line(python, f"{payload.path(head)}/{payload.wheel}", "fetch", wheels, filling),
            stdin=json.dumps({"channel": channel, "specs": SPECS}).encode(),
            on_line=lambda line: say(line) if not line.startswith("error: ") else None,
            check=False,
        )
        if finished.exit_code != 0:
            raise UserError(f"{head.name}: {finished.error_line.rstrip('.')}. {_advice(channel)}")
        head.run(script(PUT_IN_PLACE, filling, target))
    return target


def base_on(host: Host) -> Base:
    """What environments are made from where a node has been given the packages.

    Raises:
        UserError: it has none, or Python is not among them.
    """
    explicit = host.read(f"{folder_of(host)}/{EXPLICIT}")
    python = re.search(r"/python-(\d+\.\d+)\.[^/]*$", explicit.decode(), re.MULTILINE)
    if not python:
        raise UserError("the channel's packages have no Python among them.")
    return Base("conda", python[1], hashlib.sha256(explicit).hexdigest()[:12])


def install_lines(wheel: str, python: str, wheels: str, folder: str, home: str) -> list[str]:
    """The commands that make an empty environment on any node, from the copied packages."""
    return [
        shlex.join(["rm", "-rf", home]),
        node_line(python, wheel, "install", wheels, folder, home),
    ]


def _advice(channel: str) -> str:
    named = "another one" if channel != CHANNEL else f"a mirror of {shown(channel)}"
    return (
        f"What is whole stays. --conda-channel URL names {named}; --environment venv does without."
    )
