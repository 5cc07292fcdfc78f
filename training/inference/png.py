"""The settings inside a PNG: as JSON, from which it is drawn again, and as A1111 writes them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from training.errors import UserError, first_line
from training.inference.schedulers import SAMPLERS
from training.inference.settings import Picture

KEY = "xeon-diffusion"
A1111_KEY = "parameters"


def texts(picture: Picture) -> PngInfo:
    """What goes into the file beside the pixels."""
    info = PngInfo()
    info.add_itxt(A1111_KEY, parameters(picture))
    info.add_itxt(KEY, picture.model_dump_json())
    return info


def parameters(picture: Picture) -> str:
    """The settings as A1111's web UI writes and reads them ("PNG Info")."""
    settings, source = picture.settings, picture.source
    loras = "".join(f" <lora:{lora.file.path.stem}:{lora.weight:g}>" for lora in source.loras)
    lines = [f"{picture.prompt}{loras}"]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    values = {
        "Steps": settings.num_inference_steps,
        "Sampler": SAMPLERS[settings.scheduler].label,
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": picture.seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model": Path(source.model.model_name).stem,
    }
    if source.vae is not None:
        values["VAE"] = source.vae.path.name
    if source.words:
        hashes = ", ".join(f"{word.token}: {word.file.sha256[:12]}" for word in source.words)
        values["TI hashes"] = f'"{hashes}"'
    lines.append(", ".join(f"{key}: {value}" for key, value in values.items()))
    return "\n".join(lines)


def read(path: Path) -> tuple[Picture, Image.Image]:
    """The settings that are inside a PNG, and its pixels.

    Raises:
        UserError: it is no picture, or has no settings of ours in it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
            pixels = image.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"--again {path}: is not a picture.") from error
    except OSError as error:
        raise UserError(f"--again {path}: cannot be read ({error.strerror or error}).") from error
    if text is None:
        raise UserError(
            f"--again {path}: has no settings in it. Pictures that training.generate draws have "
            "them, until a program that changes pictures, or a site that shows them, drops them."
        )
    try:
        return Picture.model_validate_json(text), pixels
    except ValidationError as error:
        raise UserError(
            f"--again {path}: its settings cannot be read ({first_line(error)}): is it of another "
            "version of this program?"
        ) from error
