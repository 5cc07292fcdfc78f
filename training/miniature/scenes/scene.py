"""The little world the miniature model draws: one big object on a plain background.

An object is a plain shape, or a toy: a shape (its body) wearing a big hat of another colour.
One toy is never drawn for training, so that it can be the new concept of a demonstration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.miniature.scenes.parallel import in_parallel
from training.miniature.scenes.shapes import HAT, HAT_SEAT, OUTLINES, RING_HOLE, SHAPES

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 26, 32),
    "orange": (255, 138, 0),
    "yellow": (255, 228, 20),
    "green": (36, 140, 36),
    "teal": (0, 196, 190),
    "blue": (24, 68, 222),
    "purple": (120, 30, 160),
    "pink": (255, 140, 196),
    "brown": (112, 64, 24),
    "white": (250, 250, 250),
    "black": (16, 16, 16),
}
"""Every colour of the world by its name, sRGB in 0..255."""

GRID = 64
"""Objects are placed and sized in whole pixels of a picture this wide, so that equal things have
equal edges: what the networks then have to learn is shapes, not fractions of a pixel."""

POSITIONS: dict[str, int] = {"left": 27, "center": 32, "right": 37}
"""Where the object's middle is across the picture, in pixels of the grid."""

CONCEPT_SHAPE, CONCEPT_COLOR, CONCEPT_HAT = "heart", "teal", "orange"
"""The toy that no training scene shows."""

TOY_SHAPES: tuple[str, ...] = tuple(HAT_SEAT)

PLAIN_RADII, TOY_RADII = (20, 21, 22), (17, 18, 19)
PLAIN_HEIGHT, TOY_HEIGHT = 32, 41
"""Half widths, and how low the middle is, in pixels of the grid. A hat adds to the height, so a
toy's body stands lower than a plain shape."""

JITTER = 1
"""Most that a position differs from its usual place, in pixels of the grid."""


@dataclass(frozen=True)
class Scene:
    """What one picture shows.

    `hat` is the hat's colour, or None for a plain shape. `x`, `y` (the middle of the body)
    and `radius` (half its width) are shares of the picture's side.
    """

    shape: str
    color: str
    background: str
    hat: str | None = None
    position: str = "center"
    x: float = 0.5
    y: float = 0.5
    radius: float = PLAIN_RADII[1] / GRID

    @property
    def is_concept(self) -> bool:
        """Whether this is the toy kept out of all training scenes."""
        return (self.shape, self.color, self.hat) == (CONCEPT_SHAPE, CONCEPT_COLOR, CONCEPT_HAT)


def place(
    shape: str,
    color: str,
    background: str,
    hat: str | None,
    position: str,
    generator: np.random.Generator,
) -> Scene:
    """A scene of the named parts with a little chance in its position and size."""
    radii, height = (TOY_RADII, TOY_HEIGHT) if hat else (PLAIN_RADII, PLAIN_HEIGHT)
    return Scene(
        shape=shape,
        color=color,
        background=background,
        hat=hat,
        position=position,
        x=(POSITIONS[position] + int(generator.integers(-JITTER, JITTER + 1))) / GRID,
        y=(height + int(generator.integers(-JITTER, JITTER + 1))) / GRID,
        radius=radii[generator.integers(len(radii))] / GRID,
    )


def sample_scene(generator: np.random.Generator, *, with_concept: bool = False) -> Scene:
    """Draw one scene at random; half of them are toys.

    The concept toy comes only when `with_concept` is true (the judge must know it).
    """
    names = list(COLORS)
    while True:
        color, background, hat = (names[i] for i in generator.choice(len(names), 3, replace=False))
        is_toy = generator.random() < 0.5
        shapes = TOY_SHAPES if is_toy else SHAPES
        scene = place(
            shapes[generator.integers(len(shapes))],
            color,
            background,
            hat if is_toy else None,
            list(POSITIONS)[generator.integers(len(POSITIONS))],
            generator,
        )
        if with_concept or not scene.is_concept:
            return scene


def sample_scenes(count: int, seed: int, *, with_concept: bool = False) -> list[Scene]:
    """Draw `count` scenes; the same seed gives the same scenes."""
    generator = np.random.default_rng(seed)
    return [sample_scene(generator, with_concept=with_concept) for _ in range(count)]


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """Draw a scene as an RGB picture, uint8 [size, size, 3].

    Edges are smooth: it is drawn several times larger and averaged down.
    """
    factor = 4 if size <= 128 else 2
    side = size * factor
    image = Image.new("RGB", (side, side), COLORS[scene.background])
    draw = ImageDraw.Draw(image)
    middle = np.array([scene.x, scene.y])

    def fill(outline: NDArray[np.float64], seat: float, color: str) -> None:
        points = (outline + np.array([0.0, seat])) * scene.radius + middle
        draw.polygon([tuple(p) for p in (points * side).tolist()], fill=COLORS[color])

    fill(OUTLINES[scene.shape], 0.0, scene.color)
    if scene.shape == "ring":
        fill(RING_HOLE, 0.0, scene.background)
    if scene.hat:
        for part in HAT:
            fill(part, HAT_SEAT[scene.shape], scene.hat)
    return np.asarray(image.reduce(factor))


def render_all(
    scenes: list[Scene], size: int = 64, workers: int | None = None
) -> NDArray[np.uint8]:
    """Draw many scenes on all cores, uint8 [len(scenes), size, size, 3]."""
    pictures = in_parallel(render, [(scene, size) for scene in scenes], workers)
    return np.array(pictures, dtype=np.uint8).reshape(-1, size, size, 3)


def save_pictures(scenes: list[Scene], folder: Path) -> None:
    """Render scenes, 256 x 256, to 0.png, 1.png, ... of a folder, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes):
        Image.fromarray(render(scene, 256)).save(folder / f"{index}.png", optimize=True)
