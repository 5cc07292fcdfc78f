"""What a run's folder says of it: state.json, the lock of its supervisor, its events.

Contract 2's files are the training's. The supervisor adds `job.json`, `state.json` (which process
it is, for one), `supervisor.log`, and events of its own kinds: `restart` and `gave_up`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bootstrap import atomic_files
from bootstrap.node.process_identity import identity
from bootstrap.paths import Layout

STATE = "state.json"
EVENTS = "events.jsonl"
LOG = "supervisor.log"
LOCK = "supervisor.lock"
LOCK_SECONDS = 2.0
NUMBERS = {
    "step": ("step", "loss", "images_per_second"),
    **dict.fromkeys(("start", "evaluation", "sample", "checkpoint", "done", "stopped"), ("step",)),
}
"""What an event of a kind says in numbers, beside its time."""
ENDED = ("done", "stopped", "failed")
"""Phases that a run stays in; before them it is starting, training, restarting or stopping."""


def is_live(state: Mapping[str, Any]) -> bool:
    """Whether a run is going on, by its state as `read_state` has it."""
    return state.get("phase") not in (None, *ENDED, "lost")


@contextmanager
def held(root: Path, seconds: float = LOCK_SECONDS) -> Iterator[IO[str] | None]:
    """Hold the one lock of a cluster's training; yields None where a live process has it.

    Args:
        seconds: how long to try: who only looks holds it for an instant too.
    """
    path = Path(Layout(str(root)).runs) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    yield None
                    return
                time.sleep(0.05)
        yield file


def is_held(root: Path) -> bool:
    """Whether a supervisor is at work on this cluster."""
    with held(root, seconds=0) as file:
        return file is None


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace state.json."""
    text = json.dumps({**state, "updated": round(time.time(), 3)}, indent=1)
    atomic_files.write(folder / STATE, text.encode() + b"\n")


def read_state(folder: Path) -> dict[str, Any]:
    """state.json; empty where there is none. A phase whose supervisor is gone is "lost"."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
    if state.get("phase") not in ENDED and not _is_alive(folder, state):
        state["phase"] = "lost"
    return state


def _is_alive(folder: Path, state: dict[str, Any]) -> bool:
    supervisor = state.get("process")
    return (
        isinstance(state.get("pid"), int)
        and supervisor is not None
        and supervisor == identity(state["pid"])
        and is_held(folder.parent.parent)
    )


def append_event(folder: Path, event: str, **values: Any) -> None:
    """Add an event to events.jsonl, closing a line that a killed rank has left torn."""
    line = json.dumps({"event": event, "time": round(time.time(), 3), **values}).encode() + b"\n"
    with (folder / EVENTS).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_events(text: str) -> list[dict[str, Any]]:
    """Events in order; lines that are torn or lack a number are left out."""
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            numbers = ("time", *NUMBERS.get(str(event["event"]), ()))
            if all(isinstance(event.get(key), int | float) for key in numbers):
                events.append(event)
    return events


class Journal:
    """What the supervisor writes of a run: its state, its events, a line per decision in its log.

    Attributes:
        state: as state.json has it.
    """

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self._folder, self.state = folder, state

    def note(self, **values: Any) -> None:
        """Change state.json."""
        self.state |= values
        write_state(self._folder, self.state)

    def say(self, text: str) -> None:
        """A line in supervisor.log."""
        print(f"[supervisor {time.strftime('%H:%M:%S')}] {text}", flush=True)

    def event(self, kind: str, **values: Any) -> None:
        """Add an event to events.jsonl."""
        append_event(self._folder, kind, **values)

    def end(self, phase: str, reason: str) -> None:
        """Write down how the run ended."""
        if phase == "failed":
            self.event("gave_up", text=reason, tries=self.state["tries"])
        self.say(f"{phase}{': ' + reason if reason else ''}")
        self._note_end(phase, reason)

    def end_somehow(self, phase: str, reason: str) -> None:
        """The same where the disk may be full: as much of it as can be written."""
        with suppress(Exception):
            self.end(phase, reason)
        with suppress(Exception):  # no events can be written, a state may
            if self.state["phase"] != phase:
                self._note_end(phase, reason)

    def _note_end(self, phase: str, reason: str) -> None:
        self.note(phase=phase, reason=reason, mpirun=None, ended=round(time.time(), 3))
