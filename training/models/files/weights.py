"""A part's weight files: of the variant that is asked for, pickles only where they are allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from training.config.groups import ModelConfig
from training.errors import UserError

Part = TypeVar("Part")
PICKLED = re.compile(r"(diffusion_)?pytorch_model\b.*\.bin")
"""Names of pickles that the loaders read; other files ending in .bin hold other things."""


def load_part(
    model: ModelConfig,
    part: str,
    load: Callable[[str | None, bool], Part],
    notify: Callable[[str], None],
) -> Part:
    """Load a part of the model from the files that it has.

    As diffusers' script, which asks for `variant` in the UNet and the VAE alone: a part that has
    none is read from its plain files.

    Args:
        load: takes a variant and whether to read safetensors; raises OSError where files are
            missing, as diffusers and transformers do.

    Raises:
        UserError: the part has pickles alone, and `allow_pickle` is not given.
    """
    variant = model.variant
    try:
        return load(variant, True)
    except OSError:
        names = _files(model, part)
        if not names:
            raise
        of_variant = [name for name in names if variant and _variant(name) == variant]
        if not any(name.endswith(".safetensors") for name in of_variant) and any(
            name.endswith(".safetensors") and _variant(name) is None for name in names
        ):
            of_variant = []  # a pickle of the variant is worth less than plain safetensors
        if variant and not of_variant:
            notify(f"{part}: has no {variant} files, its plain ones are read")
            variant = None
        chosen = [name for name in names if _variant(name) == variant]
        if any(name.endswith(".safetensors") for name in chosen):
            if variant == model.variant:
                raise
            return load(variant, True)
        pickles = [name for name in chosen if PICKLED.fullmatch(name)]
        if not pickles:
            raise
        if not model.allow_pickle:
            raise UserError(_pickled(model.model_name, part, pickles[0])) from None
        notify(f"{part}: {pickles[0]} is a pickle: read as tensors alone")
        return load(variant, False)


def refuse_missing(keys: Collection[str]) -> None:
    """The loaders leave weights that a file lacks random (transformers) or empty (diffusers)."""
    if keys:
        raise ValueError(f"its file lacks {len(keys)} weights, {min(keys)} among them.")


def _pickled(name: str, part: str, file: str) -> str:
    return (
        f"{name}: its {part} has its weights as a pickle alone ({file}), which can run code when "
        "it is read. Convert the model to safetensors:\n"
        '  python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_pretrained('{name}').save_pretrained('FOLDER')\"\n"
        "  or give --allow_pickle: then pickles are read as tensors alone (torch's weights_only), "
        "and all else in them is refused."
    )


def _files(model: ModelConfig, part: str) -> list[str]:
    """The names of a part's files; none where the hub does not tell."""
    name = model.model_name
    if Path(name).is_dir():
        return sorted(path.name for path in (Path(name) / part).iterdir())
    try:
        listed = HfApi().list_repo_files(name, revision=model.revision)
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError):
        return []
    return sorted(file.split("/")[1] for file in listed if file.split("/")[0] == part)


def _variant(name: str) -> str | None:
    """`diffusion_pytorch_model.fp16.safetensors` is of variant fp16, and so are its shards."""
    found = re.fullmatch(r"[^.]+?(?:-\d+-of-\d+)?(?:\.([^.]+?)(?:-\d+-of-\d+)?)?\.[^.]+", name)
    return found[1] if found else None
