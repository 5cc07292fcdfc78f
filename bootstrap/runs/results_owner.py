"""Whose results a folder `runs/NAME` here holds: nothing that was learned is written over.

A run's name may come back: on another cluster, or after the head was replaced. `.origin` in the
folder says which run it is from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bootstrap import atomic_files
from bootstrap.errors import UserError
from bootstrap.node import checkpoints
from bootstrap.node.run_state import EVENTS
from bootstrap.runs.run_names import local_folder

FILE = ".origin"


def folder_of(cluster: str, run: dict[str, Any]) -> Path:
    """The folder for a run's results here, marked as the run's.

    A run that goes on on a new head begins new events: the loss curve of before stays here as
    `events-<when it began>.jsonl`.

    Args:
        run: as `run_query.summary` or `run_query.gather` has it.

    Raises:
        UserError: it holds the results of another run.
    """
    folder = local_folder(run["name"])
    known = _origin(folder)
    same = known is not None and known["cluster"] == cluster and known["began"] in (
        None, run["began"]
    )  # fmt: skip
    if not same and _holds_something(folder):
        if known is None or not _goes_on(folder, run):
            raise refusal(run["name"])
        if run["began"] is None:  # its first event is still to come
            return folder
        events = folder / EVENTS
        if events.exists() and known["began"] is not None:
            events.rename(folder / f"events-{known['began']}.jsonl")
    origin = {"cluster": cluster, "began": run["began"]}
    if known != origin:
        atomic_files.write(folder / FILE, json.dumps(origin).encode() + b"\n")
    return folder


def refuse_taken(name: str) -> None:
    """Raises UserError where a new run's results would meet those of another one here."""
    if _holds_something(local_folder(name)):
        raise refusal(name)


def refusal(name: str) -> UserError:
    """Names the folder and what to do."""
    return UserError(
        f"{local_folder(name)}/ here holds the results of another run, which would be written "
        f"over. Move it away (mv {local_folder(name)} {local_folder(name)}-old), or name the new "
        "run differently: fab train --run NAME."
    )


def _origin(folder: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if isinstance(values["began"], float | int | None):  # it becomes a part of a file's name
            return {"cluster": values["cluster"], "began": values["began"]}
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holds_something(folder: Path) -> bool:
    if not folder.is_dir():
        return folder.exists()
    return any(path.name != FILE for path in folder.iterdir())


def _goes_on(folder: Path, run: dict[str, Any]) -> bool:
    """Whether it is the run of the folder, resumed elsewhere: it did not begin at step 0."""
    record = checkpoints.run_record(folder)
    return record is not None and record == run["run"] and run["first_step"] != 0
