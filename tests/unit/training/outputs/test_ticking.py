"""What takes long says so while it lasts, and is silent afterwards."""

from __future__ import annotations

import threading

from training.outputs.ticking import ticking


def test_it_is_said_again_and_again_until_the_end() -> None:
    said: list[str] = []
    thrice = threading.Event()

    def notify(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            thrice.set()

    with ticking(notify, "compiling", seconds=0.001):
        assert thrice.wait(60)
    count = len(said)
    assert said[0].startswith("compiling: ")
    assert said[0].endswith(" s")
    threading.Event().wait(0.02)
    assert len(said) == count


def test_what_is_short_says_nothing() -> None:
    said: list[str] = []
    with ticking(said.append, "loading", seconds=60):
        pass
    assert said == []
