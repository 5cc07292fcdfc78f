"""A run's progress as its events tell it: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from bootstrap.terminal import column, say_on

LINE_EVERY_SECONDS = 5.0
TOLD = ("notice", "restart", "gave_up", "error", "stopped")


class RunProgress:
    """Shows a run; from events alone, so that it is the same wherever the run is."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self._total = 0
        self._last_line = 0.0
        self._phase = ""
        self._silent: set[str] = set()
        columns = (
            column("{task.description}"), BarColumn(), MofNCompleteColumn(),
            column("{task.fields[figures]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task(name, total=None, figures="") if self._bar else None

    def __enter__(self) -> RunProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """A line of its own."""
        say_on(self.console, text)

    def state(self, state: dict[str, Any]) -> None:
        """A change of the supervisor's state."""
        phase = state.get("phase") or ""
        if phase != self._phase and phase in ("starting", "training", "restarting", "stopping"):
            nodes = state.get("nodes") or []
            where = f": {state.get('ranks')} ranks on {len(nodes)} nodes" if nodes else ""
            self.note(f"{self.name}: {phase}{where}")
        self._phase = phase
        self._tell_silent(set(state.get("silent") or []), phase)

    def _tell_silent(self, silent: set[str], phase: str) -> None:
        if phase in ("training", "stopping"):
            for node in sorted(silent - self._silent):
                self.note(
                    f"{node} does not answer; if that stays so for another minute or two, the run "
                    "is restarted without it"
                )
            for node in sorted(self._silent - silent):
                self.note(f"{node} answers again")
            self._silent = silent
        else:
            self._silent = set()

    def event(self, event: dict[str, Any]) -> str:
        """An event of the run; returns its kind, or "" of one that lacks something."""
        try:
            self._event(event)
        except (LookupError, TypeError, ValueError):
            return ""
        return str(event["event"])

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self._total = int(event.get("max_train_steps") or 0)
            self._show(event["step"], "")
            self.note(
                f"step {event['step']} of {self._total}, {event.get('ranks')} ranks "
                f"({event.get('backend') or 'alone'}), global batch {event.get('global_batch')}, "
                f"{event.get('dtype')}, {event.get('cpu')}"
            )
        elif kind == "step":
            self._show(
                event["step"],
                f"loss {event['loss']:.4f}  {event['images_per_second']:.2f} images/s",
            )
        elif kind in ("checkpoint", "sample"):
            what = event.get("path", "")
            self.note(f"step {event['step']}: {kind} {what}")
        elif kind == "done":
            self._show(event["step"], "", last=True)
        elif kind in TOLD:
            self.note(str(event.get("text") or f"{kind} at step {event.get('step')}"))

    def _show(self, step: int, figures: str, last: bool = False) -> None:
        step = int(step)
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=self._total, completed=step, figures=figures)
            return
        now = time.monotonic()
        if figures and (now - self._last_line >= LINE_EVERY_SECONDS or step == self._total or last):
            self._last_line = now
            self.note(f"{self.name} {step}/{self._total}  {figures}")
