"""`make demo` and `make demo-lora`: a judge that never saw the runs finds what they learned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from training.inference.comparison import draw_both
from training.miniature.judge import finds_concept, judge_pictures
from training.miniature.style import UNSEEN, share_in_style
from training.storage.events import read_events
from training.storage.run_directory import read_config

CHECKOUT = Path(__file__).parents[3]


def run_demo(folder: Path, *flags: str) -> Path:
    """Run a demo as make does; returns its run folder."""
    finished = subprocess.run(
        [sys.executable, "-m", "training.demo", f"--output_dir={folder}", *flags],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert str(folder / "report.html") in finished.stdout
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `make demo`."""
    return run_demo(tmp_path_factory.mktemp("demo") / "run")


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


def test_the_learned_style_is_drawn_for_shapes_that_no_picture_showed(tmp_path: Path) -> None:
    folder = run_demo(tmp_path / "run", "--method=lora")
    seen = {
        step: judge_pictures([Image.open(path) for path in drawn(folder, step)])
        for step in (0, 100)
    }
    assert len(seen[0]) == len(seen[100]) == 6
    assert share_in_style(seen[0]) <= 1 / 6
    assert share_in_style(seen[100]) >= 5 / 6
    assert {verdict.shape for verdict in seen[100]} == set(UNSEEN)
    halves = [Image.open(path) for path in drawn(folder, 100, "-weight-0.5")]
    assert len(halves) == 6
    finals = [Image.open(path) for path in drawn(folder, 100)]
    assert all(
        half.tobytes() != final.tobytes() for half, final in zip(halves, finals, strict=True)
    )
    assert (folder / "samples" / "comparison.png").stat().st_size > 0


def drawn(folder: Path, step: int, weight: str = "") -> list[Path]:
    """The validation pictures of a step, drawn with all that was learned or a part of it."""
    pictures = sorted((folder / "samples" / f"step-{step:06d}").glob("*.png"))
    ends = {path: "".join(path.stem.partition("-weight-")[1:]) for path in pictures}
    return [path for path, end in ends.items() if end == weight]
