"""What a training reads, on every node: the model that bootstrap brought, pictures sent along."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bootstrap import inputs
from bootstrap.errors import UserError
from bootstrap.flags import Asked
from bootstrap.handout import hand_out
from bootstrap.hosts import Host
from bootstrap.transfer import script

MODEL, PICTURES, EMBEDS = "pretrained_model_name_or_path", "train_data_dir", "initial_embeds"


def inputs_of(
    asked: Asked, hosts: Sequence[Host], console: Console, send: bool = True
) -> dict[str, Any]:
    """The training's keys, with the model and the pictures at their places on the nodes.

    Args:
        send: bring new pictures to the nodes; without, only say where they would be.

    Raises:
        UserError: they are neither here nor there.
    """
    head = hosts[0]
    model = _model(head, asked.training.get(MODEL))
    pictures = _pictures(hosts, asked.training.get(PICTURES), console, send)
    values = asked.complete(model, pictures)
    embeds = values.get(EMBEDS)
    if embeds is not None and Path(embeds).expanduser().is_file():
        values[EMBEDS] = _send_embeds(hosts, Path(embeds).expanduser(), send)
        if not asked.training.get("initializer_token"):
            values.pop("initializer_token", None)
    return values


def _record(head: Host, kind: str) -> dict[str, Any]:
    path = f"{head.layout.cluster}/{inputs.RECORD[kind]}"
    text = head.run(script('cat "$1" 2>/dev/null || :', path)).stdout
    return json.loads(text) if text else {}


def _is_there(head: Host, path: str) -> bool:
    return head.run(script('test -d "$1"', path), check=False).exit_code == 0


def _model(head: Host, given: str | None) -> str:
    record = _record(head, "model")
    if given is None:
        if not record:
            raise UserError(f"{head.name} has no base model yet: fab bootstrap brings it.")
        return str(record["path"])
    if record and given in (record["source"], record["name"], record["path"]):
        return str(record["path"])
    for path in (given, f"{head.layout.models}/{given.rstrip('/').rpartition('/')[2]}"):
        if path.startswith("/") and _is_there(head, path):
            return path
    raise UserError(
        f"--pretrained-model-name-or-path {given}: the nodes do not have it. "
        f"fab bootstrap --pretrained-model-name-or-path {given} brings it to them."
    )


def _pictures(hosts: Sequence[Host], given: str | None, console: Console, send: bool) -> str:
    head = hosts[0]
    if given is None:
        record = _record(head, "pictures")
        if not record:
            raise UserError(f"{head.name} has no pictures yet: fab bootstrap brings them, or give "
                            "a folder: --train-data-dir.")  # fmt: skip
        return str(record["path"])
    if Path(given).expanduser().is_dir():
        wanted = inputs.read_input("pictures", given)
        if send:
            _hand_out(hosts, wanted, console)
        return wanted.path(head)
    for path in (given, f"{head.layout.data}/{given.rpartition('/')[2]}"):
        if path.startswith("/") and _is_there(head, path):
            return path
    raise UserError(f"--train-data-dir {given}: is no folder here, and the nodes have none so "
                    "called.")  # fmt: skip


def _hand_out(hosts: Sequence[Host], wanted: inputs.Input, console: Console) -> None:
    """The head first, which sends them on: the person's line carries them once."""
    head, workers = hosts[0], list(hosts[1:])

    def say(text: str) -> None:
        console.print(f"{head.name}: {text}", highlight=False, markup=False)

    tree = inputs.bring(head, wanted, say)
    failed = hand_out(tree, [head], workers, lambda host, text: None) if workers else {}
    if failed:
        lines = "\n".join(f"  {name}: {error}" for name, error in failed.items())
        raise UserError(f"the pictures did not reach every node:\n{lines}")


def _send_embeds(hosts: Sequence[Host], path: Path, send: bool) -> str:
    """Kilobytes, to every node under a name of their content."""
    content = path.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
    target = f"{hosts[0].layout.data}/.embeds/{name}"
    for host in hosts if send else ():
        host.write(target, content, mode=0o644)
    return target
