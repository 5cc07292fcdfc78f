"""Which models can be taught: text-to-image models of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from training.errors import UserError

if TYPE_CHECKING:
    from training.models.loading import Models

INDEX = "model_index.json"
PIPELINES = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    }
)
"""Pipelines of the same five parts; of the last one the UNet tells whether it is for inpainting."""
SUPPORTED = (
    "Supported are text-to-image models of Stable Diffusion 1.x and 2.x (StableDiffusionPipeline), "
    "and what is fine-tuned from them."
)
CONDITIONS = {
    "addition_embed_type": "more inputs, as SDXL's",
    "class_embed_type": "a class beside the text",
    "num_class_embeds": "a class beside the text",
    "encoder_hid_dim_type": "projected text",
}
"""What some UNets are given beside noise, timestep and text."""


def refuse_other_pipelines(name: str, revision: str | None) -> None:
    """Make sure that a pipeline folder's or repository's index, if there is one, names ours.

    Raises:
        UserError: names the pipeline's class.
    """
    text = _index(name, revision)
    if text is None:
        return
    try:
        found = json.loads(text)["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: its {INDEX} is not a pipeline's ({error!r}).") from error
    if not isinstance(found, str) or found not in PIPELINES:
        raise UserError(f"{name}: is a {found}. {SUPPORTED}")


def _index(name: str, revision: str | None) -> str | None:
    """model_index.json; None where there is none, or the hub does not give it."""
    try:
        path = (
            Path(name) / INDEX
            if Path(name).is_dir()
            else Path(hf_hub_download(name, INDEX, revision=revision))
        )
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError):
        return None


def refuse_other_architectures(name: str, models: Models) -> None:
    """Make sure that the parts fit together, and take nothing but noise, timestep and text.

    Raises:
        UserError: says which do not, and what is supported.
    """
    unet = models.unet.config
    given, made = unet.in_channels, models.vae.config.latent_channels
    if given != made:
        kinds = {9: " (an inpainting model)", 8: " (a model for editing)", 5: " (a depth model)"}
        kind = kinds.get(given, "") if made == 4 else ""
        raise UserError(
            f"{name}: its UNet takes {given} channels, its VAE makes {made}{kind}. {SUPPORTED}"
        )
    for key, what in CONDITIONS.items():
        if unet.get(key) is not None:
            raise UserError(f"{name}: its UNet wants {what} ({key} {unet[key]}). {SUPPORTED}")
    width = models.text_encoder.config.hidden_size
    wanted = unet.cross_attention_dim
    if {width} != (set(wanted) if isinstance(wanted, list | tuple) else {wanted}):
        raise UserError(
            f"{name}: its UNet takes text of width {wanted}, its text encoder makes {width}: they "
            f"are not of one model. {SUPPORTED}"
        )
    words = len(models.tokenizer)  # vocab_size leaves out added ones
    rows = len(models.text_encoder.get_input_embeddings().weight)
    if words > rows:
        raise UserError(
            f"{name}: its tokenizer has {words} words, its text encoder {rows}: they are not of "
            "one model (--tokenizer_name)."
        )
