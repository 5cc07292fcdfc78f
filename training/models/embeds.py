"""The files that hold learned rows: diffusers' form, and the one A1111, ComfyUI and kohya read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training import atomic_files
from training.config.words import a1111_name
from training.errors import UserError
from training.models.files import tensor_files

A1111_KEY = "emb_params"
SUFFIXES = (".safetensors", ".bin")


def save_embeds(path: Path, token: str, rows: torch.Tensor) -> None:
    """Write `{token: rows}` as `load_textual_inversion` reads it; .bin is a pickle.

    Args:
        path: ends in .safetensors or .bin.
        rows: [vectors, width]; written as float32.
    """
    tensors = {token: rows.detach().float().contiguous().clone()}
    if path.suffix == ".bin":
        pickled = io.BytesIO()  # torch's own writer does not say that a disk is full
        torch.save(tensors, pickled)
        atomic_files.write_bytes(path, pickled.getvalue())
    else:
        atomic_files.write_file(
            path, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"})
        )


def save_a1111(folder: Path, token: str, rows: torch.Tensor) -> Path:
    """Write `<word>.safetensors` with `emb_params`; there the file's name is the word to type."""
    path = folder / a1111_name(token)
    tensors = {A1111_KEY: rows.detach().float().contiguous().clone()}
    atomic_files.write_file(path, lambda temporary: save_file(tensors, temporary))
    return path


def load_embeds(path: Path, flag: str = "initial_embeds") -> torch.Tensor:
    """The rows [vectors, width] float32 of a learned_embeds file of either form.

    Args:
        flag: that names the file in messages.

    Raises:
        UserError: absent, torn, or not such a file.
    """
    return load_named_embeds(path, flag)[1]


def load_named_embeds(path: Path, flag: str) -> tuple[str, torch.Tensor]:
    """The word that a file has its rows under, and the rows (see `load_embeds`).

    "emb_params" and "*" stand for whatever the file is called.
    """
    named = f"{flag} {path}"
    what = "a learned_embeds file with one word's rows"
    tensors: Any = tensor_files.read(path, named, what)
    name: str | None = None
    if isinstance(tensors, dict) and isinstance(tensors.get("string_to_param"), dict):
        name = tensors.get("name")
        tensors = tensors["string_to_param"]
    try:
        ((key, rows),) = (
            (key, value) for key, value in tensors.items() if isinstance(value, torch.Tensor)
        )
    except (ValueError, AttributeError) as error:
        raise UserError(f"{named}: not {what} ({error}).") from error
    if rows.ndim == 0:
        raise UserError(f"{named}: holds a number, not rows.")
    return str(name or key), rows.float().reshape(-1, rows.shape[-1])
