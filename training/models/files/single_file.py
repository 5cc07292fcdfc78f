"""A model in a single file, in the layout that Stable Diffusion was published in.

diffusers reads such files with `from_single_file`. How the parts are made is not in the file; for
Stable Diffusion 1.x it lies in `stable_diffusion_1/`, so that the hub need not be asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    infer_diffusers_model_type,
)
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel

from training.errors import UserError
from training.models.families import SUPPORTED

MADE_AS = Path(__file__).with_name("stable_diffusion_1")
"""The configs of the parts, as in a pipeline folder."""
TOKENIZER = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Where the tokenizer is, which is in no such file."""
TEXT_ENCODER = "cond_stage_model.transformer.text_model."
UNET = "model.diffusion_model."
PARTS = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}


def check(path: Path) -> None:
    """Make sure that a file holds a model of Stable Diffusion 1.x, by the names of its weights.

    Raises:
        UserError: a pickle, another family, or a part of a model alone.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: may be a pickle, which can run code when it is read. Take "
            f"the model's .safetensors file, or convert it:\n{convert(path)}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}).") from error
    kind = infer_diffusers_model_type(
        {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    )
    if kind == "v2":
        raise UserError(
            f"{path}: is a model of Stable Diffusion 2.x, and the file does not tell which target "
            f"it was trained for (epsilon or v). Convert it to a folder, which does:\n"
            f"{convert(path)}"
        )
    if kind != "v1":
        raise UserError(f"{path}: is a model of another family ({kind}). {SUPPORTED}")
    lacking = [start for start in (TEXT_ENCODER, UNET, "first_stage_model.")
               if not any(key.startswith(start) for key in shapes)]  # fmt: skip
    if lacking:
        raise UserError(
            f"{path}: is not a whole model of Stable Diffusion 1.x: it has no weights under "
            f"{', '.join(lacking)}. {SUPPORTED}"
        )


def convert(path: Path) -> str:
    """The command that makes a pipeline folder of a file; it needs the hub, for the configs."""
    return (
        '  python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_single_file('{path}').save_pretrained('FOLDER')\""
    )


def load(path: Path, part: str, dtype: torch.dtype = torch.float32) -> Any:
    """The text encoder (float32), the VAE or the UNet of a checked file.

    Args:
        dtype: of the VAE and the UNet.

    Raises:
        Exception: whatever diffusers says of weights that do not fit.
    """
    if part != "text_encoder":
        return PARTS[part].from_single_file(
            str(path),
            config=str(MADE_AS),
            subfolder=part,
            local_files_only=True,
            torch_dtype=dtype,
        )
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(TEXT_ENCODER)]  # noqa: SIM118
        weights = {name: file.get_tensor(name) for name in names}
    return create_diffusers_clip_model_from_ldm(
        CLIPTextModel,
        weights,
        subfolder=part,
        config=str(MADE_AS),
        torch_dtype=torch.float32,
        local_files_only=True,
    )


def scheduler(kind: Any) -> Any:
    """A scheduler of class `kind` with the noise of Stable Diffusion 1.x."""
    return kind.from_pretrained(MADE_AS, subfolder="scheduler")
