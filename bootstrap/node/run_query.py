"""The runs on a head, told to whoever asks: `-m bootstrap.node.run_query WHAT ROOT ...`

    list ROOT                 every run: state, progress, what its results are; JSON
    follow ROOT NAME OFFSET   events from that byte on, as they come, until the run has ended
    gather ROOT NAME          hard links to a run's results in a new folder; prints where, as JSON
    stop ROOT NAME            ask its supervisor to end it with a checkpoint

Reads contract 2 and the supervisor's files; standard library alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bootstrap.node import checkpoints, run_state
from bootstrap.node.job import FILE_NAME as JOB
from bootstrap.paths import Layout

RESULTS = ("checkpoint", "sample", "done", "stopped")
"""Events after which there is something new to bring home."""
KEPT_THERE = ("latents", "logs", "model_index.json", "feature_extractor", "image_encoder",
              "safety_checker", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
              "nodefile", "openvino", "supervisor.lock")  # fmt: skip
"""What stays on the head unless everything is asked for: gigabytes, or of no use elsewhere."""
GATHERED = ".gathered"
SHOWN = ("phase", "reason", "nodes", "ranks", "tries", "silent")
"""What of a supervisor's state its followers are told."""
POLL_SECONDS = 0.25
RECENT = 20
ABANDONED_SECONDS = 24 * 3600.0
"""After which what a fetch that was cut has left is removed."""


def summary(folder: Path) -> dict[str, Any]:
    """A run in a few figures."""
    path = folder / run_state.EVENTS
    raw = path.read_bytes() if path.exists() else b""
    events = run_state.read_events(raw.decode("utf-8", "replace"))
    steps = [event for event in events if event["event"] == "step"]
    starts = [event for event in events if event["event"] == "start"]
    rates = [event["images_per_second"] for event in steps[-RECENT:]]
    marks = [event for event in events if event["event"] in ("restart", "notice", "gave_up")]
    return {
        "name": folder.name,
        "state": run_state.read_state(folder),
        "began": events[0]["time"] if events else None,
        "first_step": starts[0].get("step") if starts else None,
        "run": checkpoints.run_record(folder),
        "start": starts[-1] if starts else None,
        "step": steps[-1] if steps else None,
        "images_per_second": statistics.median(rates) if rates else None,
        "restarts": sum(event["event"] == "restart" for event in events),
        "last_words": marks[-1].get("text", "") if marks else "",
        "checkpoint": next(
            (event["step"] for event in reversed(events) if event["event"] == "checkpoint"), None
        ),
        "results_until": _results_until(raw),
        "whole_pipeline": (folder / "model_index.json").exists(),
    }


def _results_until(raw: bytes) -> int:
    """Up to which byte of events.jsonl there are results."""
    until = offset = 0
    for line in raw.splitlines(keepends=True):
        offset += len(line)
        events = run_state.read_events(line.decode("utf-8", "replace"))
        if events and events[0]["event"] in RESULTS:
            until = offset
    return until


def names(root: Path) -> list[str]:
    """The runs of a root, the one started last at the end."""
    found = [path.parent for path in Path(Layout(str(root)).runs).glob(f"*/{JOB}")]
    return [path.name for path in sorted(found, key=lambda path: (path / JOB).stat().st_mtime)]


def gather(folder: Path) -> dict[str, Any]:
    """Hard links to the results, so that they can be copied together while others are written.

    Each call has a folder of its own, which whoever asked removes: two may fetch at once.
    """
    said = summary(folder)
    gathered = folder.parent / GATHERED
    gathered.mkdir(exist_ok=True)
    for old in gathered.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    target = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=gathered))
    for path in folder.iterdir():
        if path.name not in KEPT_THERE:
            _link(path, target / path.name)
    known = ("name", "began", "first_step", "run", "results_until")
    return {"path": str(target), **{key: said[key] for key in known}}


def _link(source: Path, target: Path) -> None:
    """Hard links to what is not being written; what goes away meanwhile is left out."""
    if source.name.startswith("."):
        return
    with suppress(FileNotFoundError):
        if source.is_dir():
            target.mkdir()
            for path in source.iterdir():
                _link(path, target / path.name)
        else:
            os.link(source, target)


def follow(folder: Path, offset: int, say: Callable[[str], None]) -> None:
    """Say each event with the byte that it ends at, and each change of state, until the end."""
    path = folder / run_state.EVENTS
    state: dict[str, Any] = {}
    while True:
        now = run_state.read_state(folder)  # before the events: those of its last moments count
        for until, event in _new_lines(path, offset):
            offset = until
            say(json.dumps({"until": until, "event": event}))
        shown = {key: now.get(key) for key in SHOWN}
        if shown != state:
            state = shown
            say(json.dumps({"state": shown}))
        if not run_state.is_live(shown):
            return
        time.sleep(POLL_SECONDS)


def _new_lines(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        if offset > file.seek(0, os.SEEK_END):
            offset = 0  # the run was begun over
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            for event in run_state.read_events(line.decode("utf-8", "replace")):
                yield offset, event


def stop(folder: Path) -> bool:
    """Ask a run's supervisor to end it; False: it is not running."""
    state = run_state.read_state(folder)
    if not run_state.is_live(state):
        return False
    os.kill(int(state["pid"]), signal.SIGTERM)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    what, root, *rest = sys.argv[1:] if argv is None else argv
    runs = Path(Layout(root).runs)
    if what == "list":
        print(json.dumps([summary(runs / name) for name in names(Path(root))]))
    elif what == "follow":
        follow(runs / rest[0], int(rest[1]), lambda line: print(line, flush=True))
    elif what == "gather":
        print(json.dumps(gather(runs / rest[0])))
    elif what == "stop":
        print(json.dumps(stop(runs / rest[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
