"""A run's results, brought home into runs/NAME here, and what of them is on the cluster alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bootstrap import answers, atomic_files
from bootstrap.errors import UserError
from bootstrap.names import relative
from bootstrap.node import run_query
from bootstrap.paths import records
from bootstrap.runs import results_owner, runs_on_head
from bootstrap.runs.run_messages import Gathered
from bootstrap.runs.run_names import local_folder
from bootstrap.ssh.command import OnBytes
from bootstrap.ssh.host import Host


@dataclass(frozen=True)
class Fetched:
    """What has come home of one run.

    Attributes:
        began: when the run began: a later one of the same name is another.
        results_until: the byte of events.jsonl up to which results are here.
        full_until: up to which byte `--full` brought everything: a pipeline is written last.
    """

    began: float | None
    results_until: int
    full_until: int = -1


def read_fetched(cluster: str) -> dict[str, Fetched]:
    """What has come home, by run."""
    try:
        values = json.loads(records(cluster).fetched.read_text(encoding="utf-8"))
        return {name: Fetched(**value) for name, value in values.items()}
    except (OSError, ValueError, TypeError):
        return {}


def record_fetched(cluster: str, name: str, fetched: Fetched) -> None:
    """Remember what has come home."""
    everything = read_fetched(cluster) | {name: fetched}
    text = json.dumps({key: asdict(value) for key, value in everything.items()}, indent=1)
    atomic_files.write(records(cluster).fetched, text.encode() + b"\n")


def unfetched(cluster: str, run: dict[str, Any]) -> str:
    """What of a run is on the cluster alone, in words; "" where nothing is."""
    have = read_fetched(cluster).get(run["name"])
    if have is None or have.began != run["began"] or not local_folder(run["name"]).is_dir():
        have = Fetched(run["began"], 0)
    missing = []
    if run["results_until"] > have.results_until:
        at = "" if run["checkpoint"] is None else f" up to checkpoint-{run['checkpoint']}"
        missing.append(f"rows and samples{at}")
    if run["whole_pipeline"] and have.full_until < run["results_until"]:
        missing.append("the whole pipeline (--full)")
    return ", ".join(missing)


@contextmanager
def disk_errors_named(name: str) -> Iterator[None]:
    """What goes wrong in writing a run's results here, as one message.

    Raises:
        UserError: in place of errors of the file system.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{local_folder(name)}/: {error}. Is the disk full, or the folder not yours to write? "
            "fab fetch goes on with it."
        ) from error


def fetch_results(
    head: Host, cluster: str, name: str, on_bytes: OnBytes | None = None, full: bool = False
) -> Path:
    """Copy a run's results here; returns where they are.

    Raises:
        UserError: the connection broke, the disk is full, or the folder is another run's; what has
            arrived is whole.
    """
    gathered = _gather(head, name)
    try:
        with disk_errors_named(name):
            where = results_owner.folder_of(cluster, gathered)
            head.fetch(gathered["path"], where, on_bytes)
            if full:
                head.fetch(head.layout.run(name), where, on_bytes)
            before = read_fetched(cluster).get(name)
            full_until = gathered["results_until"] if full else -1
            if before is not None and before.began == gathered["began"]:
                full_until = max(full_until, before.full_until)
            there = Fetched(gathered["began"], gathered["results_until"], full_until)
            record_fetched(cluster, name, there)
    finally:
        with contextlib.suppress(UserError):
            head.run(["rm", "-rf", "--", gathered["path"]])
    return where


def _gather(head: Host, name: str) -> dict[str, Any]:
    said = runs_on_head.ask_head(head, "gather", name)
    gathered = answers.read(Gathered, said, f"{head.name}: the results of {name}")
    place = f"{head.layout.runs}/{run_query.GATHERED}/"
    path = gathered["path"]
    if gathered["name"] != name or not path.startswith(place):
        raise UserError(f"{head.name}: asked for {name}, it gives {gathered['name']!r}, {path!r}.")
    relative(path.removeprefix(place), head.name)
    return dict(gathered)
