"""Pictures with captions, and the command line of a short LoRA run on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.short_run import short_run
from tests.tiny_model import make_pictures

CAPTIONS = ("a red cat", "a dog", "the toy", "a red cat", "painting of a dog in the style of a cat")


def make_captioned(folder: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """Write pictures of noise, and their captions beside them."""
    make_pictures(folder, len(captions))
    for number, caption in enumerate(captions):
        (folder / f"{number}.txt").write_text(caption + "\n")
    return folder


def short_lora(
    model: Path, pictures: Path, latents: Path, output: Path, **changes: object
) -> list[str]:
    """Six steps; keyword arguments add and replace, None leaves out."""
    no_word = {"placeholder_token": None, "initializer_token": None}
    own = {"rank": 2, "center_crop": "false"}
    return short_run(model, pictures, latents, output, **{**no_word, **own, **changes})
