"""The measures of clean pictures, held against renders and against renders made worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.miniature.scenes.scene import GRID, Scene, render, render_all, sample_scenes
from training.miniature.scenes.sharpness import (
    edge_share,
    flat_share,
    nearest_scene,
    outline_overlap,
)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def test_renders_are_flat_with_few_edges_and_blurred_ones_are_not() -> None:
    renders = render_all(sample_scenes(60, 3))
    soft = np.stack([blurred(picture, 1.0) for picture in renders])
    assert flat_share(renders) > 0.96 > 0.9 > flat_share(soft)
    assert edge_share(renders) < 0.055 < 0.11 < edge_share(soft)


def test_a_flat_picture_has_no_edge_and_a_checkerboard_has_nothing_else() -> None:
    flat = np.full((1, 8, 8, 3), 16, dtype=np.uint8)
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 250).astype(np.uint8)[None, :, :, None]
    assert (flat_share(flat), edge_share(flat)) == (1.0, 0.0)
    assert edge_share(np.repeat(board, 3, axis=3)) == 1.0


@pytest.mark.parametrize("hat", [None, "orange"])
def test_a_render_moved_and_sized_anew_overlaps_wholly(hat: str | None) -> None:
    scene = Scene("star", "teal", "white", hat, y=0.6 if hat else 0.5)
    moved = replace(scene, x=scene.x + 2.5 / GRID, y=scene.y - 3 / GRID, radius=scene.radius * 0.95)
    assert outline_overlap(render(scene), scene) == pytest.approx(1.0)
    assert outline_overlap(render(moved), scene) > 0.97


def test_another_shape_or_color_overlaps_less() -> None:
    scene = Scene("star", "teal", "white")
    assert outline_overlap(render(replace(scene, shape="circle")), scene) < 0.75
    assert outline_overlap(render(replace(scene, color="white", background="teal")), scene) < 0.75


def test_a_hat_of_the_wrong_color_counts_against_it() -> None:
    scene = Scene("circle", "teal", "white", "orange", y=0.63)
    assert outline_overlap(render(replace(scene, hat="teal")), scene) < 0.8


def test_the_nearest_scene_is_found_from_a_soft_picture_of_it() -> None:
    for scene in sample_scenes(20, 4):
        start = replace(scene, x=0.5, y=0.5, radius=0.3)
        overlap, found = nearest_scene(blurred(render(scene), 0.6), start)
        assert overlap > 0.9
        assert (found.x, found.y, found.radius) == (scene.x, scene.y, scene.radius)
