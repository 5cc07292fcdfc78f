"""The five pictures of the concept that textual inversion learns from.

The concept is the one toy that no training scene shows, so what a tuned model draws of it
can only have come from these pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from training.miniature.networks.loop import console
from training.miniature.scenes.scene import (
    CONCEPT_COLOR,
    CONCEPT_HAT,
    CONCEPT_SHAPE,
    Scene,
    place,
    save_pictures,
)

PICTURES = Path(__file__).parent / "concept"

SETTINGS: tuple[tuple[str, str], ...] = (
    ("white", "center"),
    ("purple", "left"),
    ("yellow", "right"),
    ("black", "center"),
    ("pink", "left"),
)
"""Background and position of each picture."""


def concept_scenes() -> list[Scene]:
    """The concept on five backgrounds, the same on every call."""
    generator = np.random.default_rng(5)
    return [
        place(CONCEPT_SHAPE, CONCEPT_COLOR, background, CONCEPT_HAT, position, generator)
        for background, position in SETTINGS
    ]


def main() -> None:
    """Render the pictures, 256 x 256, to 0.png ... 4.png."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.concept",
        description="Render the pictures of the concept for the textual inversion demo.",
    )
    parser.add_argument("--output_dir", type=Path, default=PICTURES)
    folder: Path = parser.parse_args().output_dir
    save_pictures(concept_scenes(), folder)
    console.print(f"{len(SETTINGS)} pictures in {folder}", markup=False)


if __name__ == "__main__":
    main()
