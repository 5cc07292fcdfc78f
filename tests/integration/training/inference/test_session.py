"""What the playground draws with, and what it refuses before it opens."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training import generate, playground, textual_inversion
from training.errors import UserError
from training.inference import engines
from training.inference.ask import Asked
from training.inference.session import Session


@contextlib.contextmanager
def _silent(steps: int, pictures: int) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, picture: None


silent: Any = _silent


@pytest.fixture
def run(flags: Callable[..., list[str]], tmp_path: Path) -> Path:
    """A finished run of the tiny model."""
    assert textual_inversion.main(flags(num_inference_steps=2)) == 0
    return tmp_path / "run"


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def test_the_word_and_what_it_began_as_are_drawn_as_generate_draws_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(Asked(folder=run), print)
    pair = session.draw("a <new> in snow", silent, instead=session.began_as, seed=5)
    assert list(pair.pictures) == ["<new>", "without the word"]
    capsys.readouterr()
    ask = [str(run), "--seed=5", f"--output_dir={tmp_path}"]
    assert generate.main([*ask, "--prompt=a <new> in snow", "--prompt=a toy in snow"]) == 0
    drawn = [Path(path) for path in json.loads(capsys.readouterr().out)]
    assert pixels(drawn[0]).tobytes() != pixels(drawn[1]).tobytes()
    for mine, theirs in zip(pair.pictures.values(), drawn, strict=True):
        assert mine.parent == run / "generated"
        assert pixels(mine).tobytes() == pixels(theirs).tobytes()


def test_models_are_loaded_again_only_where_a_request_needs_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    load = engines.load

    def counted(*given: Any) -> engines.Artist:
        loads.append(given)
        return load(*given)

    monkeypatch.setattr(engines, "load", counted)
    session = Session(Asked(folder=run), print)
    drawn = []
    requests: tuple[dict[str, Any], ...] = (
        {}, {"scheduler": "ddim"}, {"num_inference_steps": 3, "guidance_scale": 3.0},
        {"negative_prompt": "blue"},
    )  # fmt: skip
    for changes in requests:
        pair = session.draw("a <new>", silent, **changes)
        assert list(pair.pictures) == ["<new>"]
        drawn.append(pair.pictures["<new>"])
    assert len(loads) == 1
    assert len({pixels(path).tobytes() for path in drawn}) == 4
    session.draw("a <new>", silent, width=40)
    assert len(loads) == 2


def test_a_request_that_cannot_be_met_is_refused_and_the_next_is_drawn(run: Path) -> None:
    session = Session(Asked(folder=run), print)
    requests: tuple[tuple[str, dict[str, Any], str], ...] = (
        (" ", {}, "nothing to draw"),
        ("a <new>", {"height": 33}, "must be a multiple of 8"),
        ("a <new>", {"seed": -1}, "seeds are whole numbers"),
        ("a <nwe>", {}, "<nwe>"),
    )
    for prompt, changes, reason in requests:
        with pytest.raises(UserError, match=reason):
            session.draw(prompt, silent, **changes)
    assert session.draw("a toy", silent).notes  # that the word is not in it


def test_bad_input_is_told_in_one_message_before_a_page_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        assert playground.main(list(words)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("error: ") == 1
        return printed.err

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    assert "holds no run" in refused(str(tmp_path), "--port=0")
    assert "give one of" in refused("--port=0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot be used" in refused(str(tmp_path), f"--port={port}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert "make environment-openvino" in refused(str(tmp_path))
