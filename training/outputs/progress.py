"""One line of progress on the first rank: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

LINE_EVERY_SECONDS = 5.0


class StepProgress:
    """Shows steps with loss, images/s and time left; silent where `shown` is false."""

    def __init__(
        self, title: str, total: int, done: int, shown: bool, stream: TextIO | None = None
    ):
        self.total, self.done, self.shown = total, done, shown
        self.stream = stream or sys.stderr
        self._started, self._from = time.monotonic(), done
        self._last_line = 0.0
        self._bar = (
            Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            if shown and Console(file=self.stream).is_terminal
            else None
        )
        self.title = title
        self._task = (
            self._bar.add_task(title, total=total, completed=done, figures="")
            if (self._bar)
            else None
        )

    def __enter__(self) -> StepProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, done: int, figures: str) -> None:
        """`done` steps are complete; `figures` is shown beside the bar."""
        self.done = done
        if (
            done == self._from
        ):  # what comes before the first step tells nothing of how long one takes
            self._started = time.monotonic()
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, figures=figures)
        elif self.shown:
            self._line(figures)

    def wait(self, text: str) -> None:
        """Say what keeps the next step waiting: beside the bar, or in a line."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, figures=text)
        else:
            self.note(f"{self.title} {self.done}/{self.total}  {text}")

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.shown:
            print(text, file=self.stream, flush=True)

    def _line(self, figures: str) -> None:
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_SECONDS and self.done < self.total:
            return
        self._last_line = now
        line = f"{self.title} {self.done}/{self.total}  {figures}"
        if self._from < self.done < self.total:
            per_step = (now - self._started) / (self.done - self._from)
            line += f"  {per_step * (self.total - self.done):.0f} s left"
        print(line.rstrip(), file=self.stream, flush=True)
