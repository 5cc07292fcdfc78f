"""Another VAE for a model: a tiny one (AutoencoderTiny), or a better one (AutoencoderKL)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from training.errors import UserError, first_line
from training.models.files import single_file
from training.models.files.weights import refuse_missing
from training.models.loading import Models

FLAG = "--vae"
KINDS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def load_vae(path: Path, models: Models) -> Any:
    """A VAE in float32 that can take the place of that of `models`.

    Args:
        path: a folder with its config.json, a pipeline's folder, a name on the hub, or a single
            .safetensors file of an AutoencoderKL of Stable Diffusion 1.x.

    Raises:
        UserError: it cannot be read, or is of another base model.
    """
    named = f"{FLAG} {path}"
    if path.is_file() and path.suffix != ".safetensors":
        raise UserError(
            f"{named}: may be a pickle, which can run code when it is read. Take the VAE's "
            ".safetensors file or folder."
        )
    try:
        vae = _from_file(path) if path.is_file() else _from_folder(path)
        lacking = [key for key, value in vae.state_dict().items() if value.is_meta]
        refuse_missing(lacking)
    except UserError:
        raise
    except Exception as error:  # whatever diffusers stumbles over
        raise UserError(f"{named}: cannot be loaded: {first_line(error)[:300]}") from error
    _refuse_another(vae, models, named)
    return vae


def _from_file(path: Path) -> Any:
    return AutoencoderKL.from_single_file(
        str(path),
        config=str(single_file.MADE_AS),
        subfolder="vae",
        local_files_only=True,
        torch_dtype=torch.float32,
    )


def _from_folder(path: Path) -> Any:
    where = {"subfolder": "vae"} if (path / "vae" / "config.json").is_file() else {}
    config = AutoencoderKL.load_config(str(path), **where)
    kind = config.get("_class_name", "")
    if kind not in KINDS:
        raise UserError(f"{FLAG} {path}: is a {kind or 'nothing known'}; {' or '.join(KINDS)} fit.")
    return KINDS[kind].from_pretrained(
        str(path), torch_dtype=torch.float32, use_safetensors=True, low_cpu_mem_usage=True, **where
    )


def _refuse_another(vae: Any, models: Models, named: str) -> None:
    """Make sure that a VAE reads the latents of this model."""
    own = models.vae.config

    def refuse(what: str, has: object, wanted: object) -> None:
        if has != wanted:
            raise UserError(
                f"{named}: is a VAE of another base model: {what} {has}, this model's {wanted}."
            )

    refuse("its latents have channels:", vae.config.latent_channels, own.latent_channels)
    refuse(
        "one place of its latents stands for a side of pixels:",
        2 ** (len(vae.config.block_out_channels) - 1),
        2 ** (len(own.block_out_channels) - 1),
    )
    if isinstance(vae, AutoencoderKL):  # a tiny one takes latents as the UNet has them
        refuse("its latents are scaled by", vae.config.scaling_factor, own.scaling_factor)
