"""Scenes as a training folder: pictures with their captions."""

from __future__ import annotations

from pathlib import Path

from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.scene import Scene, save_pictures


def write_captioned(scenes: list[Scene], folder: Path) -> None:
    """Render scenes, 256 x 256, to 0.png, 1.png, ..., the full caption of each beside it."""
    save_pictures(scenes, folder)
    for index, scene in enumerate(scenes):
        (folder / f"{index}.txt").write_text(f"{full_caption(scene)}\n", encoding="utf-8")
