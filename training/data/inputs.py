"""What a run reads before it trains: models, pictures, the new word, encoded pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.config.textual_inversion import TextualInversionConfig
from training.data.identity import identify
from training.data.latents import FOLDER, LatentCache, encode_missing, read_all
from training.data.prompts import check_prompt, refuse_too_many_vectors
from training.dataset import Picture, find_pictures
from training.models.loading import Models, load_models
from training.models.placeholder import add_placeholder, starting_rows
from training.ranks.launcher import Ranks
from training.ranks.process_group import together


@dataclass
class Inputs:
    """What is read before training, the same on every rank."""

    models: Models
    pictures: list[Picture]
    rows: torch.Tensor
    token_ids: list[int]
    content: dict[str, Any]


def read_inputs(config: TextualInversionConfig, notify: Callable[[str], None]) -> Inputs:
    """Read and check everything that the person named.

    Raises:
        UserError: a picture, a part of the model, or a word cannot be used.
    """
    pictures = find_pictures(config.train_data_dir, config.skip_broken_images, notify)
    models = load_models(config)
    rows = starting_rows(config, models)
    content = identify(models, pictures, rows)
    token_ids = add_placeholder(config, models)
    words = config.placeholder_tokens
    refuse_too_many_vectors(config.learnable_property, models.tokenizer, words)
    for prompt in config.validation_prompt or []:
        for line in check_prompt(prompt, models.tokenizer, words):
            notify(line)
    return Inputs(models, pictures, rows, token_ids, content)


def read_posteriors(
    config: TextualInversionConfig,
    pictures: list[Picture],
    vae: Any,
    dtype: torch.dtype,
    ranks: Ranks,
    say: Callable[[str], None],
) -> torch.Tensor:
    """Encode what the cache lacks, shared among a machine's ranks, and read all of it.

    Returns:
        [pictures, 2 (plain, mirrored), 2 (mean, deviation), C, H, W], float32.
    """
    folder = config.latents_cache_dir or config.output_dir / FOLDER

    def progress(done: int, of: int) -> None:
        if of:
            say(f"encoding pictures: {done} of {of}")

    def encode() -> LatentCache:
        cache = LatentCache(folder, vae, config.resolution, config.center_crop, dtype)
        encode_missing(cache, pictures, vae, ranks.local_rank, ranks.local_size, progress)
        return cache

    cache = together(ranks, encode)
    return together(ranks, lambda: read_all(cache, pictures, vae))
