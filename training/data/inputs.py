"""What a run reads before it trains: models, pictures, what is trained, encoded pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.config.groups import DataConfig
from training.config.run import RunConfig
from training.data.captions import read_captions, tell_of_long_captions
from training.data.dataset import Picture, find_pictures
from training.data.identity import identify
from training.data.latents import FOLDER, LatentCache, encode_missing, read_each
from training.method import Method, Sentences
from training.models.loading import (
    Models,
    load_models,
    native_resolution,
    part_digest,
    vae_scale_factor,
)
from training.ranks.launcher import Ranks
from training.ranks.process_group import on_all_ranks


@dataclass
class Inputs:
    """What is read before training, the same on every rank.

    Attributes:
        config: as given, with the model's resolution where none was.
        loaded_as: the dtype of VAE and UNet, as they were read and identified.
    """

    config: RunConfig
    models: Models
    pictures: list[Picture]
    method: Method
    sentences: Sentences
    content: dict[str, Any]
    loaded_as: torch.dtype = torch.float32

    @property
    def latent_side(self) -> int:
        """Height and width of the latents."""
        return math.ceil(self.config.side / vae_scale_factor(self.models))


def read_inputs(
    method: type[Method],
    config: RunConfig,
    notify: Callable[[str], None],
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """Read and check everything that the person named.

    Args:
        dtype: that VAE and UNet are read in.

    Raises:
        UserError: a picture, a part of the model, or what is to be trained cannot be used, or the
            method lacks a package.
    """
    method.check_packages()
    folder, captions = config.train_data_dir, None
    beside = config.captions.files if config.captions else ()
    asked = config.subfolders
    pictures = find_pictures(folder, config.skip_broken_images, notify, beside, asked)
    if asked == ():
        config = config.with_subfolders(list(dict.fromkeys(each.subfolder for each in pictures)))
    if config.captions:
        captions = read_captions(folder, config.captions, pictures, notify)
    elif asked is not None:
        captions = [picture.subfolder for picture in pictures]
    models = load_models(config.model, notify, dtype)
    if config.resolution is None:
        config = config.model_copy(update={"resolution": native_resolution(models)})
    trained = method(config, models)
    content = identify(models, pictures, trained.start, captions)
    trained.prepare(models, notify)
    sentences = trained.sentences(captions)
    if config.captions:  # as they are read: new words in them as all of their rows
        read = [sentences.texts[place] for place in sentences.of_picture or ()]
        tell_of_long_captions(models.tokenizer, read, notify)
    return Inputs(config, models, pictures, trained, sentences, content, dtype)


def read_posteriors(
    folder: Path,
    data: DataConfig,
    pictures: list[Picture],
    models: Models,
    dtype: torch.dtype,
    ranks: Ranks,
    notify: Callable[[str], None],
    multiple: int | None = None,
    before_encoding: Callable[[], None] = lambda: None,
) -> list[torch.Tensor]:
    """Encode what the cache lacks, shared among a machine's ranks, and read all of it.

    Args:
        folder: of the run.
        models: prepared by `training.models.frozen`.
        multiple: of which the sides of aspect-ratio buckets are multiples; None: squares alone.
        before_encoding: called once where this rank has pictures to encode.

    Returns:
        Of each picture [2 (plain, mirrored), 2 (mean, deviation), C, H, W], float32.
    """
    folder, vae = data.latents_cache_dir or folder / FOLDER, models.vae

    told = [-1]

    def progress(done: int, of: int) -> None:
        """Of a picture and its mirror image one is said, for all the ranks of this machine."""
        if not of:
            return
        count = min(len(pictures), math.ceil(of * ranks.local_size / 2))
        if told[0] != (finished := count * done // of):
            told[0] = finished
            notify(f"encoding pictures: {finished} of {count}")

    def encode() -> LatentCache:
        digest = part_digest(models, "vae")
        cache = LatentCache(folder, vae, data.side, data.center_crop, dtype, multiple, digest)
        encode_missing(
            cache, pictures, vae, ranks.local_rank, ranks.local_size, progress, before_encoding
        )
        return cache

    cache = on_all_ranks(ranks, encode)
    return on_all_ranks(ranks, lambda: read_each(cache, pictures, vae))
