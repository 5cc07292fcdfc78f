"""The eight pictures with captions of a style that a LoRA learns.

In this style whatever is drawn is yellow on blue, and wears no hat. The captions name the shape
alone, and two of the eight shapes are in none of them: what a tuned model makes of those shows
that the style, and not a picture, has been learned.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.miniature.judge import Verdict
from training.miniature.networks.loop import console
from training.miniature.scenes.scene import Scene, place, save_pictures

PICTURES = Path(__file__).parent / "style"
STYLE_COLOR, STYLE_BACKGROUND = "yellow", "blue"
SHOWN = ("circle", "square", "triangle", "star", "cross", "moon")
UNSEEN = ("heart", "ring")
"""The shapes that are in no picture."""


def style_scenes() -> list[Scene]:
    """Eight things in the style, the same on every call."""
    generator = np.random.default_rng(8)
    shapes = (*SHOWN, *SHOWN[:2])
    positions = ("center", "left", "right")
    return [
        place(shape, STYLE_COLOR, STYLE_BACKGROUND, None, positions[number % 3], generator)
        for number, shape in enumerate(shapes)
    ]


def caption(shape: str) -> str:
    """What is said of a picture: nothing of its colours."""
    return f"a photo of a {shape}"


def share_in_style(verdicts: Sequence[Verdict]) -> float:
    """How many of the judged pictures have the colours of the style, from 0 to 1."""
    style = (STYLE_COLOR, STYLE_BACKGROUND)
    return sum((seen.color, seen.background) == style for seen in verdicts) / len(verdicts)


def main() -> None:
    """Render the pictures, 256 x 256, to 0.png ... 7.png, a caption beside each."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.style",
        description="Render the pictures and captions of the style for the LoRA demo.",
    )
    parser.add_argument("--output_dir", type=Path, default=PICTURES)
    folder: Path = parser.parse_args().output_dir
    save_pictures(style_scenes(), folder)
    for index, scene in enumerate(style_scenes()):
        (folder / f"{index}.txt").write_text(f"{caption(scene.shape)}\n", encoding="utf-8")
    console.print(f"{len(style_scenes())} pictures in {folder}", markup=False)


if __name__ == "__main__":
    main()
