"""Loading a diffusers pipeline's parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.config.groups import ModelConfig
from training.errors import UserError, first_line

PARTS = ("tokenizer", "scheduler", "text_encoder", "vae", "unet")


@dataclass
class Models:
    """The parts of a Stable Diffusion pipeline that training uses, in float32 when loaded."""

    tokenizer: Any
    noise_scheduler: Any
    text_encoder: Any
    vae: Any
    unet: Any


for _library in (transformers.utils.logging, diffusers.utils.logging):
    _library.disable_progress_bar()  # loading takes less than it takes to read the bar


def load_models(model: ModelConfig) -> Models:
    """Load tokenizer, noise scheduler, text encoder, VAE and UNet.

    Raises:
        UserError: a part is missing or cannot be read; it is named.
    """
    name = model.model_name
    hub = {"revision": model.revision}
    weights = {**hub, "variant": model.variant, "low_cpu_mem_usage": True}
    missing = [part for part in PARTS if Path(name).is_dir() and not (Path(name) / part).is_dir()]
    if missing:
        raise UserError(
            f"{name}: not a whole pipeline, {', '.join(missing)} missing. A pipeline folder has "
            f"{', '.join(PARTS)}; download it again."
        )
    with _part_named(name, "tokenizer"):
        tokenizer = (
            CLIPTokenizer.from_pretrained(model.tokenizer_name)
            if model.tokenizer_name
            else CLIPTokenizer.from_pretrained(name, subfolder="tokenizer", **hub)
        )
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers 5 says nothing
            raise ValueError("its vocabulary (vocab.json and merges.txt) is missing.")
    with _part_named(name, "scheduler"):
        noise_scheduler = DDPMScheduler.from_pretrained(name, subfolder="scheduler", **hub)
    with _part_named(name, "text_encoder"):
        # The dtype is asked for: transformers 5 keeps a file's fp16, which cannot be mixed.
        text_encoder, found = CLIPTextModel.from_pretrained(
            name,
            subfolder="text_encoder",
            dtype=torch.float32,
            use_safetensors=True,
            **hub,
            variant=model.variant,
            output_loading_info=True,
        )
        _refuse_missing(found["missing_keys"])
    with _part_named(name, "vae"):
        vae = AutoencoderKL.from_pretrained(
            name, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True, **weights
        )
        _refuse_missing([key for key, value in vae.state_dict().items() if value.is_meta])
    with _part_named(name, "unet"):
        unet = UNet2DConditionModel.from_pretrained(
            name, subfolder="unet", torch_dtype=torch.float32, use_safetensors=True, **weights
        )
        _refuse_missing([key for key, value in unet.state_dict().items() if value.is_meta])
    if noise_scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"{name}/scheduler: prediction type {noise_scheduler.config.prediction_type!r} "
            "is not one that this objective knows (epsilon, v_prediction, sample)."
        )
    return Models(tokenizer, noise_scheduler, text_encoder, vae, unet)


def _refuse_missing(keys: Collection[str]) -> None:
    """The loaders leave weights that a file lacks random (transformers) or empty (diffusers)."""
    if keys:
        raise ValueError(f"its file lacks {len(keys)} weights, {min(keys)} among them.")


class _part_named:
    """Turn a loader's failure into one message that names the model's part."""

    def __init__(self, name: str, part: str) -> None:
        self.name, self.part = name, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        where = "a folder here or a name on the hub (HF_ENDPOINT says which hub)"
        raise UserError(
            f"{self.name}: its {self.part} cannot be loaded: {first_line(error)[:300]}\n"
            f"  The model must be {where}, whole, with safetensors weights."
        ) from error


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Token ids [prompts, model_max_length], int64, padded and truncated as the pipeline does."""
    encoded = tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names, dtypes and bytes of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
