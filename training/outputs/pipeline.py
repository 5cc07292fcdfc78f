"""The finished concept inside its whole pipeline, on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

from training import atomic_files
from training.config.groups import ModelConfig
from training.models.files import single_file
from training.models.loading import Models


def save_full_pipeline(folder: Path, base: ModelConfig, models: Models) -> None:
    """Save the base pipeline with what was learned in it, in `folder` itself.

    Args:
        models: read afresh, in float32: those that trained may have been repacked.
    """
    parts = {
        "text_encoder": models.text_encoder,
        "tokenizer": models.tokenizer,
        "vae": models.vae,
        "unet": models.unet,
    }
    if Path(base.model_name).is_file():
        pipeline = models.pipeline(single_file.scheduler(PNDMScheduler))
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(
            base.model_name,
            revision=base.revision,
            variant=base.variant,
            torch_dtype=torch.float32,
            **parts,
        )
    # Where the model lies here is nobody's business: a saved pipeline is made to be passed on.
    known_as = "" if Path(base.model_name).exists() else base.model_name
    for part in (pipeline, models.vae, models.unet):
        part.register_to_config(_name_or_path=known_as)
    staging = folder / ".pipeline"

    def put_in_place(temporary: Path) -> None:
        pipeline.save_pretrained(temporary)

    atomic_files.write_directory(staging, put_in_place)
    # model_index.json last: with it in place, every other part is.
    for part in sorted(staging.iterdir(), key=lambda path: path.name == "model_index.json"):
        atomic_files.move(part, folder / part.name)
    staging.rmdir()
