"""Pictures drawn with the frozen models and the rows as they are: the eyes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from training import atomic_files
from training.inference import schedulers
from training.models.loading import Models


def build_pipeline(models: Models) -> Any:
    """A StableDiffusionPipeline over these models, with a scheduler that needs few steps."""
    noise = models.noise_scheduler.config
    pipeline = models.pipeline(schedulers.build(schedulers.default_name(noise), noise))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: Any,
    prompt: str,
    seeds: list[int],
    side: int,
    num_inference_steps: int,
    guidance_scale: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """One picture per seed; a seed's picture does not depend on the others'.

    Args:
        side: height and width in pixels.
        progress: called with pictures done and of how many.
    """
    pictures = []
    reduced = pipeline.unet.dtype == torch.bfloat16
    for done, seed in enumerate(seeds):
        if progress:
            progress(done, len(seeds))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            result = pipeline(
                prompt,
                height=side,
                width=side,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=torch.Generator().manual_seed(seed),
            )
        pictures.append(result.images[0])
    return pictures


def save_picture(path: Path, picture: Image.Image, texts: PngInfo | None = None) -> None:
    """Write a PNG, whole or not at all.

    Args:
        texts: to keep in it.
    """
    atomic_files.write_file(
        path, lambda temporary: picture.save(temporary, format="PNG", pnginfo=texts)
    )


def in_columns(
    columns: list[tuple[str, list[Image.Image]]],
    below: tuple[str, list[Image.Image]],
    side: int = 128,
    per_column: int = 3,
    caption: Sequence[str] = (),
) -> Image.Image:
    """A grid that compares columns of pictures, with a strip of others below them.

    Args:
        columns: title and pictures of each; the same number of pictures in every column.
        below: title and pictures of the strip, as many as fit.
        side: pixels of each picture of a column.
        per_column: how many stand side by side in a column.
        caption: paragraphs in small print under everything, wrapped to the grid's width.
    """
    gap, title, between = 6, 34, 24
    block = per_column * (side + gap)
    rows = -(-max(len(pictures) for _, pictures in columns) // per_column)
    width = len(columns) * block + (len(columns) - 1) * between + gap
    height = title + rows * (side + gap)
    small = min(side, (width - gap) // max(1, len(below[1])) - gap)
    font, print_font, leading = ImageFont.load_default(17), ImageFont.load_default(12), 16
    lines = [line for text in caption for line in _wrapped(text, print_font, width - 2 * gap)]
    bottom = height + title + small + gap
    grid = Image.new("RGB", (width, bottom + len(lines) * leading + gap * bool(lines)), "white")
    pen = ImageDraw.Draw(grid)
    for number, line in enumerate(lines):
        pen.text((gap, bottom + number * leading), line, fill="#444444", font=print_font)

    def paste(pictures: list[Image.Image], left: int, top: int, size: int, in_a_row: int) -> None:
        for index, picture in enumerate(pictures):
            x = left + (index % in_a_row) * (size + gap)
            y = top + (index // in_a_row) * (size + gap)
            grid.paste(picture.resize((size, size), Image.Resampling.LANCZOS), (x, y))

    for number, (name, pictures) in enumerate(columns):
        left = gap + number * (block + between)
        pen.text((left, 8), name, fill="black", font=font)
        paste(pictures, left, title, side, per_column)
    pen.text((gap, height + 8), below[0], fill="black", font=font)
    fitting = (width - gap) // (small + gap)
    paste(below[1][:fitting], gap, height + title, small, fitting)
    return grid


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, cut between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
