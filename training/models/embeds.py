"""The files that hold learned rows: diffusers' form, and the one A1111, ComfyUI and kohya read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training import atomic_files
from training.config.textual_inversion import a1111_name
from training.errors import UserError

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


def load_embeds(path: Path) -> torch.Tensor:
    """The rows [vectors, width] float32 of a learned_embeds file of either form.

    Raises:
        UserError: absent, torn, or not such a file.
    """
    try:
        tensors: dict[str, Any] = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        (rows,) = (value for value in tensors.values() if isinstance(value, torch.Tensor))
    except OSError as error:
        raise UserError(
            f"initial_embeds {path}: cannot be read ({error.strerror or error})."
        ) from error
    except (SafetensorError, ValueError, AttributeError, RuntimeError, EOFError) as error:
        raise UserError(
            f"initial_embeds {path}: not a learned_embeds file with one word's rows ({error})."
        ) from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserError(
            f"initial_embeds {path}: a pickle with more than tensors in it; convert it to "
            "safetensors with the tool that made it."
        ) from error
    if rows.ndim == 0:
        raise UserError(f"initial_embeds {path}: holds a number, not rows.")
    return rows.float().reshape(-1, rows.shape[-1])
