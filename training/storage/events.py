"""events.jsonl: what happened in a run, appended line by line; all progress is read from it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.atomic_files import disk_errors_named
from training.config.run import CONFIG_FILE
from training.errors import UserError

FILE_NAME = "events.jsonl"
OF_A_STEP = frozenset({"start", "step", "evaluation", "sample", "checkpoint", "done", "stopped"})
"""Kinds that say at which step they happened."""


class EventLog:
    """Appends events to a run's events.jsonl.

    Kinds: start, step, evaluation, sample, checkpoint, notice, done, stopped, error. Every
    event has `event`, `time` (seconds since 1970) and, but for notice and error, `step`. Who runs
    a training on a cluster may add kinds of its own, with a `text`: restart, gave_up.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        with disk_errors_named(self.path):
            self._file = self.path.open("a+b")
        self._end_torn_line()

    def _end_torn_line(self) -> None:
        """A killed process may have left half a line: close it, so that the next one is whole."""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def write(self, event: str, **values: Any) -> None:
        """Append one event; it has left this process when the call returns."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        with disk_errors_named(self.path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()


@contextlib.contextmanager
def errors_recorded(folder: Path, writes: bool) -> Iterator[None]:
    """Write an error event for a `UserError` of the block.

    Use it once `folder` holds the run that was asked for: what is refused before has touched no
    run, and a run that is in the folder is told nothing of it.

    Args:
        writes: whether this rank writes the events.
    """
    try:
        yield
    except UserError as error:
        if writes and (folder / CONFIG_FILE).exists():
            with contextlib.suppress(UserError):
                EventLog(folder).write("error", text=str(error))
        raise


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, in order; lines that are torn or lack their step are left out.

    A resumed run does some steps again: of what was recorded after the checkpoint that it
    resumed from, only the later record is kept.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(event, dict) or "event" not in event:
            continue
        if event["event"] in OF_A_STEP and not isinstance(event.get("step"), int):
            continue
        if event["event"] == "start":
            # A run that begins again at step 0 evaluates and draws there again.
            done = event["step"] if event["step"] > 0 else -1
            events = [
                old
                for old in events
                if old["event"] in ("start", "notice", "error") or old.get("step", 0) <= done
            ]
        events.append(event)
    return events


def events_of(events: list[dict[str, Any]], kind: str, *keys: str) -> list[dict[str, Any]]:
    """The events of a kind that have all of `keys`: another tool may have written in the file."""
    return [event for event in events if event["event"] == kind and event.keys() >= set(keys)]
