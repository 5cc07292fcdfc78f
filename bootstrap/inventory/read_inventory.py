"""Which machines: the stack's outputs, a file of the same shape, a nodefile, or this one alone."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node, cluster_name
from bootstrap.inventory.nodefile import read_nodefile
from bootstrap.paths import CHECKOUT

OUTPUTS = ("pulumi", "stack", "output", "--json")
PULUMI_SECONDS = 120
# An inventory may come from somebody else. Its names are those of files here and on the nodes, and
# stand in lines of ssh_config and authorized_keys. (infra/inventory.py has the same patterns.)
NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,127}$"
USER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}$"
GROUP_NAME = r"^[A-Za-z0-9_(][A-Za-z0-9_().-]{0,89}$"
FOLDER = r"^/[A-Za-z0-9._/~+-]*$"
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*$"


class OutputNode(BaseModel):
    """A node as the stack's outputs tell it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(pattern=NODE_NAME)
    private_ip: IPv4Address
    public_ip: IPv4Address | None = None
    vcpus: int | None = Field(default=None, ge=1)
    size: str | None = Field(default=None, pattern=ONE_LINE)
    # No cloud's output has it; the inventory of machines that one made oneself may.
    port: int = Field(default=22, ge=1, le=65535)


class Outputs(BaseModel):
    """The stack's outputs, as far as they matter here. What Pulumi leaves out is null."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    user: str = Field(pattern=USER_NAME)
    ssh_private_key_path: str | None = Field(default=None, pattern=ONE_LINE)
    ssh_public_key: str | None = Field(default=None, pattern=ONE_LINE)
    gateway: IPv4Address | None = None
    nodes: tuple[OutputNode, ...] = Field(min_length=1)
    name: str | None = Field(default=None, pattern=GROUP_NAME)
    resource_group: str | None = Field(default=None, pattern=GROUP_NAME)
    price_per_hour_usd: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    price_as_of: str | None = Field(default=None, pattern=ONE_LINE)
    data_folder: str | None = Field(default=None, pattern=FOLDER)
    idle_minutes: int = Field(default=0, ge=0)


def read_inventory(where: str | None = None) -> Inventory:
    """The cluster that a person means.

    Args:
        where: a JSON file of the stack's outputs, a nodefile, or "local"; None or "": the outputs
            of the selected Pulumi stack.

    Raises:
        UserError: there is none, or it is wrong; everything that is wrong is named at once.
    """
    if not where:
        return _from_outputs(_stack_outputs(), "the stack's outputs", "stack", "stack")
    if where == "local":
        return local_inventory()
    path = Path(where)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"{path} cannot be read ({reason}). --inventory takes a file that `pulumi stack"
            " output --json` wrote, a nodefile (user@host:port per line, head first), or local."
        ) from error
    if text.lstrip().startswith("{"):
        return _from_outputs(text, str(path), cluster_name(path), "file")
    return read_nodefile(path, text)


def local_inventory() -> Inventory:
    """This machine alone; no SSH."""
    name = socket.gethostname().split(".")[0] or "localhost"
    node = Node(name=name, address="127.0.0.1", user=getpass.getuser())
    return Inventory("local", "local", (node,), user=node.user)


def _from_outputs(text: str, where: str, name: str, kind: Literal["stack", "file"]) -> Inventory:
    try:
        outputs = Outputs.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise UserError(_bad(where, problems)) from error
    problems = _repeated([(f"nodes.{i}.name", n.name) for i, n in enumerate(outputs.nodes)])
    problems += _repeated(
        [(f"nodes.{i}.private_ip", f"{n.private_ip}:{n.port}") for i, n in enumerate(outputs.nodes)]
    )
    if problems:
        raise UserError(_bad(where, problems))
    nodes = tuple(
        Node(
            name=node.name,
            address=str(node.private_ip),
            port=node.port,
            user=outputs.user,
            public_address=str(node.public_ip) if node.public_ip else None,
            vcpus=node.vcpus,
            size=node.size,
        )
        for node in outputs.nodes
    )
    key = outputs.ssh_private_key_path or other_half(outputs.ssh_public_key)
    return Inventory(
        name=outputs.name or outputs.resource_group or name,
        kind=kind,
        nodes=nodes,
        user=outputs.user,
        gateway=str(outputs.gateway) if outputs.gateway else nodes[0].public_address,
        ssh_private_key_path=Path(key).expanduser() if key else None,
        price_per_hour_usd=outputs.price_per_hour_usd,
        price_as_of=outputs.price_as_of,
        resource_group=outputs.resource_group,
        data_folder=outputs.data_folder,
        idle_minutes=outputs.idle_minutes,
    )


def other_half(public: str | None) -> Path | None:
    """The private key in ~/.ssh whose public one, in the file NAME.pub beside it, is the nodes'."""
    wanted = (public or "").split()[:2]
    for file in sorted(Path("~/.ssh").expanduser().glob("*.pub")) if wanted else ():
        try:
            found = file.read_text(encoding="utf-8").split()[:2]
        except (OSError, UnicodeDecodeError):
            continue
        if found == wanted and file.with_suffix("").is_file():
            return file.with_suffix("")
    return None


def _repeated(named: list[tuple[str, str]]) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for key, value in named:
        if value in first:
            problems.append(f"{key}: {value} is already at {first[value]}")
        first.setdefault(value, key)
    return problems


def _bad(where: str, problems: list[str]) -> str:
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return (
        f"{where} is not the inventory of a cluster:\n{lines}\n"
        f"`{' '.join(OUTPUTS)} > cluster.json` writes one."
    )


def _stack_outputs() -> str:
    """What `pulumi stack output --json` prints, run where Pulumi.yaml is."""
    others = "or name machines of your own: --inventory nodefile, or --inventory local"
    here = Path.cwd() if (Path.cwd() / "Pulumi.yaml").exists() else CHECKOUT
    try:
        finished = subprocess.run(
            OUTPUTS, cwd=here, capture_output=True, text=True, timeout=PULUMI_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(
            "There is no `pulumi` on the PATH to ask for the cluster's machines. Install it"
            f" (https://www.pulumi.com/docs/install/), {others}."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"`{' '.join(OUTPUTS)}` has not answered for {PULUMI_SECONDS} s. Does `pulumi whoami`"
            " answer? It may be asking for a passphrase: set PULUMI_CONFIG_PASSPHRASE."
        ) from error
    if finished.returncode != 0:
        said = finished.stderr.strip() or finished.stdout.strip() or "(it said nothing)"
        raise UserError(
            f"`{' '.join(OUTPUTS)}` failed with exit code {finished.returncode}:\n{said}\n"
            "Choose a stack with `pulumi stack select NAME` (`pulumi stack ls` lists them), or make"
            f" one with `pulumi up`; {others}."
        )
    try:
        outputs: Any = json.loads(finished.stdout or "{}")
    except ValueError as error:
        raise UserError(
            f"`{' '.join(OUTPUTS)}` printed no JSON: {finished.stdout[:200]!r}"
        ) from error
    if not isinstance(outputs, dict) or not outputs.get("nodes"):
        raise UserError(
            f"The selected stack has no cluster yet. Make one with `pulumi up`, {others}."
        )
    return finished.stdout
