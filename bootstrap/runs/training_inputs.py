"""What a training reads, on every node: the model that bootstrap brought, pictures sent along."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bootstrap.errors import UserError
from bootstrap.runs.flags import TrainOptions
from bootstrap.setup import model_and_data
from bootstrap.setup.broadcast import broadcast, seal
from bootstrap.ssh.host import Host
from bootstrap.terminal import say_on

MODEL, PICTURES, EMBEDS = "pretrained_model_name_or_path", "train_data_dir", "initial_embeds"


def inputs_of(
    asked: TrainOptions, hosts: Sequence[Host], console: Console, send: bool = True
) -> dict[str, Any]:
    """The training's keys, with the model and the pictures at their places on the nodes.

    Args:
        send: copy new pictures to the nodes; without, only say where they would be.

    Raises:
        UserError: they are neither here nor there.
    """
    head = hosts[0]
    model = _model(head, asked.training.get(MODEL))
    pictures = _pictures(hosts, asked.training.get(PICTURES), console, send)
    values = asked.complete(model, pictures)
    sent = values.get(EMBEDS) is not None and _embeds(hosts, values, send)
    if sent and not asked.training.get("initializer_token"):
        values.pop("initializer_token", None)
    return values


def inputs_of_resumed(
    asked: TrainOptions,
    begun: dict[str, Any],
    hosts: Sequence[Host],
    console: Console,
    send: bool = True,
) -> dict[str, Any]:
    """The keys of a run that goes on: what it began with, and what is given now.

    What `fab train` had brought is not on a node that has been replaced since: it is copied
    from one that has it.

    Args:
        begun: the run's own keys.
        send: copy to the nodes; without, only say where things would be.

    Raises:
        UserError: no node has what the run began with, or what is given is neither here nor there.
    """
    values = {**begun, **asked.training}
    if MODEL in asked.training:
        values[MODEL] = _model(hosts[0], asked.training[MODEL])
    if PICTURES in asked.training:
        values[PICTURES] = _pictures(hosts, asked.training[PICTURES], console, send)
    if EMBEDS in asked.training:
        _embeds(hosts, values, send)
    for key in (MODEL, PICTURES, EMBEDS):
        if key not in asked.training and str(values.get(key, "")).startswith("/"):
            _complete(hosts, key, str(values[key]), console, send)
    return values


RESTORED_BY = {
    MODEL: "Bring it again, by this name: fab bootstrap --pretrained-model-name-or-path {0}",
    PICTURES: "Bring the folder again, by this name: fab bootstrap --train-data-dir {0}",
    EMBEDS: "Give the file again: fab train --resume --initial-embeds FILE",
}
"""How what only a lost node had comes back."""


def _complete(
    hosts: Sequence[Host], key: str, path: str, console: Console, send: bool
) -> None:  # fmt: skip
    """What the nodes that lack `path` get from one that has it."""
    having = [host for host in hosts if host.exists(path)]
    lacking = [host for host in hosts if host not in having]
    if not having:
        name = path.rpartition("/")[2]
        raise UserError(
            f"--resume: no node that answers has {path}, the run's {key} (was the head replaced?). "
            f"{RESTORED_BY[key].format(name)}"
        )
    if not lacking or not send:
        return
    names = ", ".join(host.name for host in lacking)
    say_on(console, f"{path}: from {having[0].name} to {names}")
    if key == EMBEDS:
        content = having[0].read(path)
        for host in lacking:
            host.write(path, content, mode=0o644)
        return
    _raise(key, broadcast(seal(having[0], path), having[:1], lacking, lambda host, text: None))


def _raise(what: str, failed: dict[str, UserError]) -> None:
    if failed:
        lines = "\n".join(f"  {name}: {error}" for name, error in failed.items())
        raise UserError(f"the {what} did not reach every node:\n{lines}")


def _model(head: Host, given: str | None) -> str:
    record = model_and_data.read_record(head, "model")
    if given is None:
        if not record:
            raise UserError(f"{head.name} has no base model yet: fab bootstrap brings it.")
        return str(record["path"])
    if record and given in (record.get("source"), record.get("name"), record["path"]):
        return str(record["path"])
    for path in (given, f"{head.layout.models}/{given.rstrip('/').rpartition('/')[2]}"):
        if path.startswith("/") and head.exists(path, "d"):
            return path
    raise UserError(
        f"--pretrained-model-name-or-path {given}: the nodes do not have it. "
        f"fab bootstrap --pretrained-model-name-or-path {given} brings it to them."
    )


def _pictures(hosts: Sequence[Host], given: str | None, console: Console, send: bool) -> str:
    head = hosts[0]
    if given is None:
        record = model_and_data.read_record(head, "pictures")
        if not record:
            raise UserError(f"{head.name} has no pictures yet: fab bootstrap brings them, or give "
                            "a folder: --train-data-dir.")  # fmt: skip
        return str(record["path"])
    if Path(given).expanduser().is_dir():
        wanted = _beside_the_known(head, model_and_data.read_input("pictures", given))
        if send:
            _broadcast(hosts, wanted, console)
        return wanted.path(head)
    for path in (given, f"{head.layout.data}/{given.rpartition('/')[2]}"):
        if path.startswith("/") and head.exists(path, "d"):
            return path
    raise UserError(f"--train-data-dir {given}: is no folder here, and the nodes have none so "
                    "called.")  # fmt: skip


def _beside_the_known(head: Host, wanted: model_and_data.Input) -> model_and_data.Input:
    """Pictures for one run lie beside those that bootstrap brought, whatever they are called."""
    known = model_and_data.read_record(head, "pictures")
    if known is None or known["path"] != wanted.path(head) or known.get("key") == wanted.key():
        return wanted
    return replace(wanted, mark=f"-{hashlib.sha256(wanted.key().encode()).hexdigest()[:8]}")


def _broadcast(hosts: Sequence[Host], wanted: model_and_data.Input, console: Console) -> None:
    """The head first, which sends them on: the person's line carries them once."""
    head, workers = hosts[0], list(hosts[1:])

    def say(text: str) -> None:
        say_on(console, f"{head.name}: {text}")

    tree = model_and_data.fetch_to_head(head, wanted, say, record=False)
    if workers:
        _raise("pictures", broadcast(tree, [head], workers, lambda host, text: None))


def _embeds(hosts: Sequence[Host], values: dict[str, Any], send: bool) -> bool:
    """Kilobytes, to every node under a name of their content; False: no file of the person's."""
    path = Path(values[EMBEDS]).expanduser()
    if not path.is_file():
        return False
    content = path.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
    target = f"{hosts[0].layout.data}/.embeds/{name}"
    for host in hosts if send else ():
        host.write(target, content, mode=0o644)
    values[EMBEDS] = target
    return True
