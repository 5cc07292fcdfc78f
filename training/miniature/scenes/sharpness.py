"""How clean drawn pictures are: flat colours, few edges, true outlines.

The judge names what a picture shows and forgives how it is drawn; these measures do not. They
need no trained network: a drawn picture is held against the renderer's palette and outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from training.miniature.scenes.parallel import in_parallel
from training.miniature.scenes.scene import COLORS, GRID, PLAIN_RADII, TOY_RADII, Scene, render

PALETTE: NDArray[np.int16] = np.array(list(COLORS.values()), dtype=np.int16)
FLAT, EDGE = 16, 8
"""Levels of 255: a pixel within FLAT of a colour in every channel has that colour; neighbours
that differ by more than EDGE in some channel have an edge between them."""


def flat_share(pictures: NDArray[np.uint8]) -> float:
    """Share of pixels, 0..1, that have one of the eleven colours; pictures uint8 [n, h, w, 3]."""
    pixels = pictures.reshape(-1, 1, 3).astype(np.int16)
    near = [
        (np.abs(part - PALETTE).max(axis=2) <= FLAT).any(axis=1)
        for part in np.array_split(pixels, max(1, len(pixels) // 100_000))
    ]
    return float(np.concatenate(near).mean())


def has_colors_of_one_thing(picture: NDArray[np.uint8], least: int = 25) -> bool:
    """Whether a picture, uint8 [h, w, 3], has no more colours than a toy on its background: three.

    A colour counts from `least` pixels that have it.
    """
    pixels = picture.reshape(-1, 1, 3).astype(np.int16)
    far = np.abs(pixels - PALETTE).max(axis=2)
    found = np.bincount(far.argmin(axis=1)[far.min(axis=1) <= FLAT], minlength=len(PALETTE))
    return int((found >= least).sum()) <= 3


def edge_share(pictures: NDArray[np.uint8]) -> float:
    """Share of horizontal neighbours, 0..1, with an edge between them; uint8 [n, h, w, 3]."""
    steps = np.abs(np.diff(pictures.astype(np.int16), axis=2)).max(axis=3)
    return float((steps > EDGE).mean())


def outline_overlap(picture: NDArray[np.uint8], scene: Scene) -> float:
    """Intersection over union, 0..1, of a drawn thing and the scene's, best placed and sized.

    The scene's outline is tried at every whole and half pixel of the picture, uint8
    [64, 64, 3], and at radii up to three pixels smaller or larger.
    """
    radii = [scene.radius + step / GRID for step in np.arange(-3, 3.5, 0.5)]
    return best_fit(picture, scene, radii, offsets=(0.0, 0.5))[0]


def nearest_scene(picture: NDArray[np.uint8], scene: Scene) -> tuple[float, Scene]:
    """The scene of the same parts, as the sampler places and sizes them, that fits best.

    Returns its overlap with what is drawn, 0..1, and the scene.
    """
    radii = [radius / GRID for radius in (TOY_RADII if scene.hat else PLAIN_RADII)]
    return best_fit(picture, scene, radii, offsets=(0.0,))


def nearest_scenes(
    pictures: NDArray[np.uint8], scenes: list[Scene], workers: int | None = None
) -> list[tuple[float, Scene]]:
    """`nearest_scene` of many pictures, uint8 [n, 64, 64, 3], on all cores."""
    return in_parallel(nearest_scene, list(zip(pictures, scenes, strict=True)), workers)


def best_fit(
    picture: NDArray[np.uint8], scene: Scene, radii: Sequence[float], offsets: Sequence[float]
) -> tuple[float, Scene]:
    """Move and size a scene until it overlaps most with a drawn picture, uint8 [64, 64, 3].

    Every pixel of the picture counts as the nearest of the scene's two or three colours. A
    pixel is in the intersection when it is part of the body in both, or of the hat in both; in
    the union when it is part of either in one of them. All whole pixels are tried at once, as
    a correlation; `offsets` are fractions of a pixel to try beside them.
    """
    drawn = _parts(picture, scene)
    spectra = np.conj(np.fft.rfft2(drawn))
    best = (-1.0, scene)
    for radius, dx, dy in product(radii, offsets, offsets):
        tried = replace(scene, radius=radius, x=scene.x + dx / GRID, y=scene.y + dy / GRID)
        outline = _parts(render(tried), scene)
        shared = np.fft.irfft2((np.fft.rfft2(outline) * spectra).sum(axis=0), s=drawn.shape[1:])
        down, right = np.unravel_index(shared.argmax(), shared.shape)
        overlap = float(shared.max() / (drawn.sum() + outline.sum() - shared.max()))
        if overlap > best[0]:
            best = overlap, replace(tried, x=tried.x - _shift(right), y=tried.y - _shift(down))
    return best


def _shift(index: np.intp) -> float:
    """Index of a correlation as a share of the picture's side: its second half is negative."""
    return float(((index + GRID // 2) % GRID - GRID // 2) / GRID)


def _parts(picture: NDArray[np.uint8], scene: Scene) -> NDArray[np.float64]:
    """Masks [1 or 2, h, w] of the body and, where the scene has one, the hat."""
    names = [scene.background, scene.color, *([scene.hat] if scene.hat else [])]
    colors = np.array([COLORS[name] for name in names], dtype=np.int16)
    distances = np.abs(picture[:, :, None, :].astype(np.int16) - colors).sum(axis=3)
    nearest = distances.argmin(axis=2)
    return np.stack([nearest == part for part in range(1, len(names))]).astype(np.float64)
