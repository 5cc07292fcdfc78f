"""What is shown of a training's progress is text as it is."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from training.outputs.progress import StepProgress

WORDS = "[/home/a] x [red]y"


class Terminal(io.StringIO):
    """A stream that rich takes for a terminal."""

    def isatty(self) -> bool:
        """It says that it is one."""
        return True


def shown(stream: io.StringIO) -> str:
    """What a person sees, without the sequences that move the cursor and set colors."""
    return Text.from_ansi(stream.getvalue()).plain


@pytest.mark.parametrize("place", ["title", "figures", "note"])
def test_a_bar_shows_brackets_as_they_are(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    words = {"title": "t", "figures": "f", "note": "n", place: WORDS}
    stream = Terminal()
    with StepProgress(words["title"], 2, 0, shown=True, stream=stream) as progress:
        progress.step(1, words["figures"])
        progress.note(words["note"])
    assert WORDS in shown(stream)


def test_lines_show_brackets_as_they_are() -> None:
    stream = io.StringIO()
    with StepProgress(WORDS, 1, 0, shown=True, stream=stream) as progress:
        progress.note(WORDS)
        progress.step(1, WORDS)
    assert stream.getvalue().count(WORDS) == 3


def test_time_left_is_told_from_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("training.outputs.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with StepProgress("training", 10, 0, shown=True, stream=stream) as progress:
        for seconds, done in ((40, 0), (50, 2), (90, 10)):
            now[0] = seconds
            progress.step(done, f"at {seconds}")
    assert stream.getvalue().splitlines() == [
        "training 0/10  at 40",
        "training 2/10  at 50  40 s left",
        "training 10/10  at 90",
    ]
