"""Which files of a repository on the hub are fetched: what diffusers reads, and no pickle."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

CONFIGS = (".json", ".txt", ".model")
# What `training` reads.
PICTURES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic",
    ".heif", ".jp2",
)  # fmt: skip
CAPTIONS, METADATA = (".txt", ".caption"), "metadata.jsonl"
INDEX = "model_index.json"


def pipeline_files(names: Iterable[str]) -> list[str]:
    """The files of a diffusers pipeline: configs, vocabularies, and weights as safetensors.

    Checkpoints of the whole model at the top (`v1-5-pruned.safetensors`), other variants (`fp16`,
    `non_ema`), other frameworks' weights and pickles (`.bin`, `.ckpt`) stay where they are.

    Args:
        names: every file of the repository.
    """
    return [name for name in sorted(names) if name == INDEX or _is_of_a_part(PurePosixPath(name))]


def _is_of_a_part(path: PurePosixPath) -> bool:
    """Whether a part of the pipeline (`unet`, `vae`) is read from this file."""
    if len(path.parts) != 2 or path.name.startswith("."):
        return False
    if path.suffix == ".safetensors":
        # A variant's name stands behind a dot: `diffusion_pytorch_model.fp16-00001-of-00002`.
        return "." not in path.stem.split("-0", 1)[0]
    lists_shards = re.search(r"\.\w+\.index(\.\w+)?\.json$", path.name)
    plain = path.name.endswith(".safetensors.index.json")
    return path.suffix in CONFIGS and (plain or not lists_shards)


def without_safetensors(chosen: Iterable[str], names: Iterable[str]) -> list[str]:
    """Folders that have pickled weights and no safetensors among what was chosen."""
    have = {PurePosixPath(name).parent for name in chosen if name.endswith(".safetensors")}
    pickled = {
        PurePosixPath(name).parent
        for name in names
        if name.endswith((".bin", ".ckpt", ".pt")) and "/" in name
    }
    return sorted(str(folder) for folder in pickled - have)


def picture_files(names: Iterable[str]) -> list[str]:
    """The pictures of a repository, with their captions.

    Where it has a folder `concept_images`, those that are in it.
    """
    names = sorted(names)
    pictures = [name for name in names if name.lower().endswith(PICTURES)]
    pictures = [name for name in pictures if name.startswith("concept_images/")] or pictures
    paths = [PurePosixPath(name) for name in pictures]
    captions = {str(path.with_suffix(suffix)) for path in paths for suffix in CAPTIONS}
    captions |= {str(path.with_name(METADATA)) for path in paths}
    return pictures + [name for name in names if name in captions]
