"""The picture of `make demo-quantize`, and the pictures with captions that it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.miniature.quantize_demo import Row, side_by_side
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.pictures import write_captioned
from training.miniature.scenes.scene import sample_scenes


def test_every_picture_stands_in_the_column_of_its_way() -> None:
    colors = ("red", "green", "blue")
    rows = [Row(name, [Image.new("RGB", (64, 64), name)] * 6, 0.25, 1.5, 6) for name in colors]
    grid = np.asarray(side_by_side(rows, ["a"] * 6, side=64)).astype(int)
    width = grid.shape[1] // 3
    for number, color in enumerate(colors):
        column = grid[:, number * width : (number + 1) * width]
        wanted = Image.new("RGB", (1, 1), color).getpixel((0, 0))
        pixels = (column == wanted).all(axis=-1).sum()
        assert pixels == 6 * 64 * 64
    assert (grid[-50:] < 128).any()  # the figures below


def test_scenes_are_written_with_their_captions(tmp_path: Path) -> None:
    scenes = sample_scenes(3, 1)
    write_captioned(scenes, tmp_path)
    for number, scene in enumerate(scenes):
        assert (tmp_path / f"{number}.txt").read_text() == f"{full_caption(scene)}\n"
        with Image.open(tmp_path / f"{number}.png") as picture:
            assert picture.size == (256, 256)
