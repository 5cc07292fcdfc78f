"""A node's environment, made from wheels that lie on its disk: nothing is asked of the internet.

It is built in `envs/<stack>-<key>` and `env` becomes a link to it once everything in it has been
imported, so whoever finds `env` finds one that works. `installed.json` in it says what it holds,
`preload.json` what LD_PRELOAD should be.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bootstrap.answers import read, read_last_line
from bootstrap.errors import CommandFailed, UserError
from bootstrap.setup.broadcast import Say
from bootstrap.setup.python.package_pins import ONECCL_PACKAGE, Lock
from bootstrap.setup.python.packages import PINS
from bootstrap.setup.python.payload import Payload
from bootstrap.setup.python.pip_zip import pip_command
from bootstrap.ssh.command import script

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

ONECCL = "oneccl_bindings_for_pytorch"
# Torch comes first: its extension does not load without it.
IMPORTED = {
    "upstream": ("torch", "diffusers", "transformers", "accelerate", "training"),
    "intel": (
        "torch", "intel_extension_for_pytorch", ONECCL, "diffusers", "transformers", "accelerate",
        "training",
    ),
}  # fmt: skip
IMPORTED_WITH = {"openvino": ("openvino", "nncf", "optimum.intel", "openvino_genai", "gradio")}
INSTALLED = "installed.json"
PRELOAD = "preload.json"
PAYLOAD = "payload"
REPORT = ("-I", "-m", "bootstrap.node.reports.environment_report")
# $1: the environment's folder, $2: the link.
FLIP = """
wanted="envs/$(basename "$1")"
[ "$(readlink "$2")" = "$wanted" ] || { ln -sfn "$wanted" "$2.new" && mv -T "$2.new" "$2"; }
"""
# A library that cannot be preloaded is only complained about: the loader goes on without it.
# (A shell's own `true` would load nothing.)
LOADS = 'said=$(LD_PRELOAD="$1" env true 2>&1) && [ -z "$said" ]'


@dataclass(frozen=True)
class Base:
    """What an empty environment is made from.

    Attributes:
        kind: "venv" or "conda".
        version: of its Python.
        digest: of conda's packages; "": the node's own Python makes it.
    """

    kind: str
    version: str
    digest: str = ""


@dataclass(frozen=True)
class Recipe:
    """What the environments of a cluster are made of; the same for every node.

    Attributes:
        lock: the stack's.
        payload: the checkout's own code.
        base: the empty environment.
        wheels: the folders on the nodes.
        imports: what has to load before the environment is in use; empty: what the stack has.
    """

    lock: Lock
    payload: Payload
    base: Base
    wheels: tuple[str, ...]
    imports: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name in `envs`."""
        text = f"{self.lock.key(self.base.version)} {self.base.digest or False}"
        return f"{self.lock.stack}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def home(self, host: Host) -> str:
        """The environment's own folder on a node."""
        return f"{host.layout.envs}/{self.name}"

    def key(self) -> str:
        """Changes when any of it does."""
        return f"{self.name} {self.payload.key}"


def venv_lines(python: str, home: str) -> list[str]:
    """The commands that make an empty environment from a node's own Python.

    Without pip: Debian and Ubuntu keep what would install it in a package of its own.
    """
    words = ["rm", "-rf", home], [python, "-I", "-m", "venv", "--without-pip", home]
    return [shlex.join(each) for each in words]


def install_line(recipe: Recipe, home: str, payload: str, pip: str, *, packages: bool) -> str:
    """The command that fills it: the checkout's own code, and the wheels of all other packages.

    Nothing is compiled ahead: the imports at the end compile what is used, in a third of the time.

    Args:
        packages: False: they are there, and newer code of the checkout replaces the older.
    """
    arguments = [
        "install", "--no-index", "--no-deps", "--no-compile", "--progress-bar=off",
        f"{payload}/{recipe.payload.wheel}", *([] if packages else ["--force-reinstall"]),
    ]  # fmt: skip
    for folder in recipe.wheels if packages else ():
        arguments += ["--find-links", folder, "--requirement", f"{folder}/{PINS}"]
    return pip_command(f"{home}/bin/python", pip, arguments, offline=True)


def set_up(
    host: Host,
    recipe: Recipe,
    empty: Sequence[str],
    tcmalloc: str | None,
    say: Say,
) -> None:
    """Make a node's environment, or bring the one that is there up to date.

    Args:
        empty: the commands that make the folder with an interpreter in it.
        tcmalloc: the system's, for environments that hold none.

    Raises:
        UserError: a wheel does not install or a package does not import; `env` is as it was.
    """
    home, payload, pip = recipe.home(host), recipe.payload.path(host), recipe.payload.pip(host)
    there = host.text_of(f"{home}/{PAYLOAD}").strip()
    whole = _as_recorded(host, home)
    if whole and there == recipe.payload.key:
        say("already there")
    elif not whole:
        say("an empty environment")
        host.run(["mkdir", "-p", host.layout.envs])
        for line in empty:
            host.run(line)
        say(f"installing {len(recipe.lock.pins)} packages")
        host.run(install_line(recipe, home, payload, pip, packages=True))
    else:
        say("this checkout's code")
        host.run(["rm", "-f", f"{home}/{PRELOAD}", f"{home}/{PAYLOAD}"])
        host.run(install_line(recipe, home, payload, pip, packages=False))
    if not whole or there != recipe.payload.key:
        say("first import")
        _record(host, recipe, home, tcmalloc, say)
        host.write(f"{home}/{PAYLOAD}", recipe.payload.key.encode(), mode=0o644)
    host.run(script(FLIP, home, host.layout.env))


def _as_recorded(host: Host, home: str) -> bool:
    """Whether an environment was finished, and holds the packages that it held then."""
    if not host.exists(f"{home}/{PRELOAD}", "f"):
        return False
    said = host.run([f"{home}/bin/python", *REPORT], check=False).stdout
    try:
        now = json.loads(said.splitlines()[-1])["packages"]
        return bool(now == json.loads(host.read(f"{home}/{INSTALLED}"))["packages"])
    except (UserError, ValueError, LookupError, TypeError):
        return False


def _record(host: Host, recipe: Recipe, home: str, tcmalloc: str | None, say: Say) -> None:
    """Import what counts, and write down what is there."""
    imports = recipe.imports or [
        name
        for names in (
            IMPORTED[recipe.lock.stack], *(IMPORTED_WITH[extra] for extra in recipe.lock.extras)
        )
        for name in names
        if name != ONECCL or ONECCL_PACKAGE in recipe.lock.pins
    ]  # fmt: skip
    try:
        printed = host.run([f"{home}/bin/python", *REPORT, "--import", *imports]).stdout
    except CommandFailed as error:
        raise UserError(
            f"{error}\nThe packages installed but do not work together on {host.node.name}."
            + (" --stack upstream needs fewer of them." if recipe.lock.stack == "intel" else "")
        ) from error
    found = read_last_line(dict[str, Any], printed, f"{host.node.name}: its environment")
    libraries = dict(found["libraries"])
    if "tcmalloc" not in libraries:
        if tcmalloc:
            libraries["tcmalloc"] = tcmalloc
        else:
            say("no tcmalloc on this system: training does without it")
    preload = [_by_link(host, home, path) for path in libraries.values() if _loads(host, path)]
    found |= {
        "stack": recipe.lock.stack,
        "with": recipe.lock.extras,
        "environment": recipe.base.kind,
        "preload": preload,
        "oneccl_setvars": _by_link(host, home, found["oneccl_setvars"] or ""),
        "left_out": recipe.lock.left_out,
        "payload": recipe.payload.key,
    }
    host.write(f"{home}/{INSTALLED}", json.dumps(found, indent=1).encode(), mode=0o644)
    host.write(f"{home}/{PRELOAD}", json.dumps(preload).encode(), mode=0o644)


def _by_link(host: Host, home: str, path: str) -> str:
    """The path through `env`, which stays when the environment behind it changes."""
    return host.layout.env + path.removeprefix(home) if path.startswith(f"{home}/") else path


def _loads(host: Host, path: str) -> bool:
    return host.run(script(LOADS, path), check=False).exit_code == 0


def installed(host: Host) -> dict[str, Any]:
    """What a node's environment was found to hold when it was made.

    Raises:
        UserError: it has none.
    """
    path = f"{host.layout.env}/{INSTALLED}"
    text = host.read(path).decode("utf-8", "replace")
    return read(dict[str, Any], text, f"{host.name}: {path}")
