"""What a model was made for, read from its parts' configurations before its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from training.config.groups import ModelConfig
from training.errors import UserError, first_line
from training.models.families import INDEX
from training.models.files import single_file
from training.models.files.hub_access import refuse_unreachable


def part_config(model: ModelConfig, kind: Any, part: str) -> dict[str, Any]:
    """The configuration of a model's part.

    Args:
        kind: its class, or one that reads the same file.

    Raises:
        UserError: it cannot be read.
    """
    name = model.model_name
    in_file = Path(name).is_file()
    refuse_unreachable(name, (INDEX, "unet/config.json"), model.revision)
    try:
        config: dict[str, Any] = (
            kind.load_config(str(single_file.MADE_AS), subfolder=part)
            if in_file
            else kind.load_config(name, subfolder=part, revision=model.revision)
        )
    except Exception as error:  # whatever diffusers or the hub's client stumbles over
        raise UserError(
            f"{name}: its {part} cannot be loaded: {first_line(error)[:300]}\n"
            "  The model must be a folder here, a name on the hub (HF_ENDPOINT says which) or a "
            "single .safetensors file of 1.x."
        ) from error
    return config


def noise_schedule(model: ModelConfig) -> dict[str, Any]:
    """The configuration of the model's own scheduler."""
    return part_config(model, DDPMScheduler, "scheduler")


def native_side(model: ModelConfig) -> int:
    """As `training.models.loading.native_resolution`, without its weights."""
    sample = part_config(model, UNet2DConditionModel, "unet").get("sample_size") or 64
    vae = part_config(model, AutoencoderKL, "vae")
    side = (sample if isinstance(sample, int) else min(sample)) * 2 ** (
        len(vae["block_out_channels"]) - 1
    )
    return int(max(8, side - side % 8))
