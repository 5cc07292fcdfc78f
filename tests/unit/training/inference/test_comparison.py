"""comparison.png is made of the run's own first and last validation pictures, and says what of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.config.textual_inversion import TextualInversionConfig
from training.inference.comparison import write_comparison
from training.inference.samples import in_columns
from training.storage.events import EventLog
from training.storage.run_directory import RunRecord, write_config

RECORD = RunRecord(
    seed=7, global_batch=2, learning_rate=1e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip
COLOURS = {0: (200, 0, 0), 2: (0, 0, 200), 4: (0, 160, 0)}
SIDE = 128


def make_run(folder: Path, steps: tuple[int, ...], seeds: tuple[int, ...] = (7, 8, 9, 10)) -> Path:
    sources = folder / "pictures"
    sources.mkdir()
    Image.new("RGB", (80, 64), "yellow").save(sources / "a.png")
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": "someone/model",
        "train_data_dir": sources,
        "placeholder_token": "<new>",
        "initializer_token": "toy",
        "validation_prompt": ["a <new>"],
    }
    write_config(folder, TextualInversionConfig.model_validate(values), RECORD)
    log = EventLog(folder)
    (folder / "samples").mkdir()
    for step in steps:
        for seed in seeds:
            name = f"samples/{step}-{seed}.png"
            Image.new("RGB", (SIDE, SIDE), COLOURS[step]).save(folder / name)
            log.write("sample", step=step, prompt="a <new>", seed=seed, path=name)
    return folder


def colours(picture: Image.Image) -> set[Any]:
    return {colour for _, colour in picture.getcolors(1 << 20) or []}


def test_the_first_and_the_last_step_stand_side_by_side(tmp_path: Path) -> None:
    path = write_comparison(make_run(tmp_path, (0, 2, 4)), "<new>", "4 training steps")
    assert path is not None
    with Image.open(path) as grid:
        left = colours(grid.crop((0, 0, grid.width // 2, grid.height)))
        right = colours(grid.crop((grid.width // 2, 0, grid.width, grid.height)))
    assert COLOURS[0] in left - right
    assert COLOURS[4] in right - left
    assert COLOURS[2] not in left | right


@pytest.mark.parametrize("steps", [(), (0,)])
def test_without_two_steps_there_is_nothing_to_compare(
    tmp_path: Path, steps: tuple[int, ...]
) -> None:
    assert write_comparison(make_run(tmp_path, steps), "<new>", "") is None
    assert not (tmp_path / "samples" / "comparison.png").exists()


def test_pictures_that_are_gone_fail_no_finished_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path, (0, 4))
    (folder / "pictures" / "a.png").write_bytes(b"broken since")
    assert write_comparison(folder, "<new>", "") is None
    (folder / "pictures" / "a.png").unlink()
    assert write_comparison(folder, "<new>", "") is None


def test_a_caption_is_wrapped_below_the_pictures() -> None:
    column = ("title", [Image.new("RGB", (SIDE, SIDE), "white")])
    plain = in_columns([column], column, per_column=1)
    short = in_columns([column], column, per_column=1, caption=["seeds 7"])
    long = in_columns([column], column, per_column=1, caption=["seeds 7 8 9 " * 10])
    assert plain.width == short.width == long.width
    assert plain.height < short.height < long.height
