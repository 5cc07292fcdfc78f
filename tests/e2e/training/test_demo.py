"""`make demo`: the concept is learned, so that a judge that never saw the run finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from training.inference.comparison import draw_both
from training.miniature.judge import finds_concept
from training.storage.events import read_events
from training.storage.run_directory import read_config

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a demo, run as `make demo` runs it."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    finished = subprocess.run(
        [sys.executable, "-m", "training.demo", f"--output_dir={folder}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert str(folder / "report.html") in finished.stdout
    return folder


def test_the_learned_word_draws_the_concept_and_the_initializer_does_not(demo: Path) -> None:
    config, _ = read_config(demo)
    assert config.validation_prompt is not None
    before, after = draw_both(demo, config.validation_prompt[:2], 10, lambda done, of: None)
    assert len(before) == len(after) == 20
    assert sum(finds_concept(after)) >= 18
    assert sum(finds_concept(before)) <= 4


def test_two_ranks_trained_it(demo: Path) -> None:
    start = next(event for event in read_events(demo) if event["event"] == "start")
    assert start["ranks"] == 2


def test_it_leaves_what_it_says(demo: Path) -> None:
    for name in ("learned_embeds.safetensors", "loss.png", "report.html", "events.jsonl"):
        assert (demo / name).stat().st_size > 0, name
    with Image.open(demo / "samples" / "comparison.png") as grid:
        assert grid.width > grid.height
    report = (demo / "report.html").read_text()
    assert 'src="http' not in report
    assert 'href="http' not in report
