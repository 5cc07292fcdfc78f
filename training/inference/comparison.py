"""samples/comparison.png: the same prompts and seeds with the initializer and the learned word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from training.config.textual_inversion import TextualInversionConfig
from training.data.dataset import find_pictures
from training.data.images import open_picture
from training.inference.generate import learned
from training.inference.samples import build_pipeline, draw, in_columns, save_picture
from training.models.embeds import load_embeds
from training.models.placeholder import models_with_rows
from training.storage.run_directory import COMPARISON_FILE, read_config

FIRST_SEED = 1000
"""Apart from the seeds that validation pictures are drawn with during training."""


def load_learned(folder: Path) -> tuple[TextualInversionConfig, Any]:
    """A run's config, and its base pipeline with the learned word loaded, in float32."""
    config, _ = read_config(folder, TextualInversionConfig)
    models = models_with_rows(config.model, config.concept, load_embeds(learned(folder, None)))
    return config, build_pipeline(models)


def draw_both(
    folder: Path, prompts: list[str], per_prompt: int, progress: Callable[[int, int], None]
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures of `prompts` with the initializer word, and with the learned word.

    Args:
        prompts: each with the placeholder token in it.
        per_prompt: seeds a prompt, the same for both words.
        progress: called with pictures done and of how many.
    """
    config, pipeline = load_learned(folder)
    columns: list[list[Image.Image]] = []
    for word in (config.initializer_token or "", config.placeholder_token):
        pictures: list[Image.Image] = []
        for number, prompt in enumerate(prompts):
            progress(len(columns) * len(prompts) + number, 2 * len(prompts))
            first = FIRST_SEED + number * per_prompt
            pictures += draw(
                pipeline,
                prompt.replace(config.placeholder_token, word),
                list(range(first, first + per_prompt)),
                config.side,
                config.num_inference_steps,
                config.guidance_scale,
            )
        columns.append(pictures)
    return columns[0], columns[1]


def write_comparison(folder: Path, progress: Callable[[int, int], None]) -> Path:
    """Draw a finished run's validation prompts with both words, side by side."""
    config, _ = read_config(folder, TextualInversionConfig)
    before, after = draw_both(folder, config.validation_prompt or [], 3, progress)
    pictures = find_pictures(config.train_data_dir, True, lambda text: None)
    shown = [open_picture(picture.path) for picture in pictures]
    side = min(picture.size[0] for picture in shown)
    grid = in_columns(
        [
            (f'"{config.initializer_token}", before', before),
            (f'"{config.placeholder_token}", learned', after),
        ],
        ("learned from these pictures", [ImageOps.fit(p, (side, side)) for p in shown]),
    )
    path = folder / COMPARISON_FILE
    save_picture(path, grid)
    return path
