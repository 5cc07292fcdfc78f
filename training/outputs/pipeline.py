"""The finished concept inside its whole pipeline: on disk, and on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from training import atomic_files
from training.config.groups import ModelConfig, OutputsConfig
from training.errors import UserError, first_line
from training.models.loading import Models


def save_full_pipeline(folder: Path, base: ModelConfig, models: Models) -> None:
    """Save the base pipeline with what was learned in it, in `folder` itself.

    Args:
        models: read afresh, in float32: those that trained may have been repacked.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(
        base.model_name,
        revision=base.revision,
        variant=base.variant,
        text_encoder=models.text_encoder,
        tokenizer=models.tokenizer,
        vae=models.vae,
        unet=models.unet,
        torch_dtype=torch.float32,
    )
    staging = folder / ".pipeline"

    def put_in_place(temporary: Path) -> None:
        pipeline.save_pretrained(temporary)

    atomic_files.write_directory(staging, put_in_place)
    # model_index.json last: with it in place, every other part is.
    for part in sorted(staging.iterdir(), key=lambda path: path.name == "model_index.json"):
        atomic_files.move(part, folder / part.name)
    staging.rmdir()


def publish(outputs: OutputsConfig, notify: Callable[[str], None]) -> None:
    """Upload the results to the hub, without checkpoints and encoded pictures.

    Raises:
        UserError: no token (HF_TOKEN or `hf auth login`), or the hub refuses.
    """
    api = HfApi()
    name = outputs.hub_model_id or outputs.output_dir.name
    try:
        repository = api.create_repo(name, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=outputs.output_dir,
            ignore_patterns=["checkpoint-*", "latents/*", ".*", "logs/*"],
            commit_message="End of training",
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub: {name} could not be uploaded ({first_line(error)}). "
            "Set HF_TOKEN to a token that may write; the results are in "
            f"{outputs.output_dir}."
        ) from error
    notify(f"uploaded to {repository}")
