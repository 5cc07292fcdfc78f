"""Outlines of the shapes and of the hat, as polygons in a unit frame.

A shape fills about [-1, 1] x [-1, 1] with y pointing down; the renderer scales it to the
picture. Outlines are computed once, when the module is imported.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
)


def _arc(radius: float, start: float, stop: float, center: tuple[float, float]) -> Outline:
    angles = np.linspace(start, stop, 48)
    return np.stack(
        [center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1
    )


def _star() -> Outline:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.24, 0.54)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.1], axis=1)


def _heart() -> Outline:
    t = np.linspace(0.0, 2.0 * np.pi, 96, endpoint=False)
    x = 16.0 * np.sin(t) ** 3
    y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 15.5, (y - 2.5) / 14.5], axis=1)


def _cross() -> Outline:
    a = 0.36
    corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
    return np.array(corners + [(-x, -y) for x, y in corners], dtype=np.float64)


def _moon() -> Outline:
    # The inner arc meets the outer one at the two horns, so the crescent closes exactly.
    horn, depth = np.deg2rad(48.0), 0.12
    tip = np.array([np.cos(horn), np.sin(horn)])
    inner_x = (1.0 - depth**2) / (2.0 * (tip[0] + depth))
    inner_radius = inner_x + depth
    half = np.arctan2(tip[1], tip[0] - inner_x)
    outer = _arc(1.0, horn, 2.0 * np.pi - horn, (0.0, 0.0))
    inner = _arc(inner_radius, 2.0 * np.pi - half, half, (inner_x, 0.0))
    return np.concatenate([outer, inner]) * 1.08 + np.array([0.14, 0.0])


OUTLINES: dict[str, Outline] = {
    "circle": _arc(0.95, 0.0, 2.0 * np.pi, (0.0, 0.0)),
    "square": np.array([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
    "triangle": np.array([(0.0, -1.0), (1.08, 0.9), (-1.08, 0.9)]),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _arc(1.0, 0.0, 2.0 * np.pi, (0.0, 0.0)),
    "moon": _moon(),
}
"""Outer outline of each shape, float64 [points, 2] as (x, y)."""

RING_HOLE: Outline = _arc(0.5, 0.0, 2.0 * np.pi, (0.0, 0.0))
"""What is cut out of the ring, in the same frame."""

HAT: tuple[Outline, ...] = (
    np.array([(-0.62, -0.95), (0.62, -0.95), (0.7, -0.2), (-0.7, -0.2)]),
    np.array([(-1.08, -0.24), (1.08, -0.24), (1.08, 0.06), (-1.08, 0.06)]),
)
"""Crown and brim, in the body's frame; the brim's middle is where the hat sits on the body."""

HAT_SEAT: dict[str, float] = {
    "circle": -0.74,
    "square": -0.82,
    "star": -0.66,
    "heart": -0.94,
    "cross": -0.82,
    "ring": -0.82,
}
"""Height (y in the body's frame) at which the bodies of toys wear their hats.

A triangle or a moon would lose under a hat what tells it apart, so they are never toys.
"""
