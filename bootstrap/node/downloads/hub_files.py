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


def pipeline_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of a diffusers pipeline: configs, vocabularies, and weights as safetensors.

    Checkpoints of the whole model at the top (`v1-5-pruned.safetensors`), other variants (`fp16`,
    `non_ema`), other frameworks' weights and pickles (`.bin`, `.ckpt`) stay where they are.

    Args:
        names: every file of the repository.
        variant: the weights' variant that is wanted, such as "fp16"; None: the plain ones.
    """
    chosen = []
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) == 1:
            if name == INDEX:
                chosen.append(name)
        elif len(path.parts) == 2 and not path.name.startswith("."):
            if path.suffix == ".safetensors":
                fits = _variant(path.name) == variant
            else:
                listed = _shards_of(path.name)
                fits = path.suffix in CONFIGS and listed in (None, variant or "")
            if fits:
                chosen.append(name)
    return chosen


def _variant(name: str) -> str | None:
    """`diffusion_pytorch_model.fp16.safetensors` is variant "fp16"; shards have a number too."""
    stem = name.removesuffix(".safetensors").split("-0", 1)[0]
    _, dot, variant = stem.partition(".")
    return variant if dot else None


def _shards_of(name: str) -> str | None:
    """The variant whose shards an index file lists ("": the plain one); None: another file."""
    found = re.search(r"\.(\w+)\.index(?:\.(\w+))?\.json$", name)
    if not found:
        return None
    return found[2] or "" if found[1] == "safetensors" else "pickle"


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
