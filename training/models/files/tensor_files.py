"""Tensors from a file that a person has from elsewhere; pickles as tensors and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.errors import UserError, first_line


def read(path: Path, named: str, what: str) -> Any:
    """What a .safetensors file or a pickle holds.

    Args:
        named: the file as messages name it, for example "--lora lcm.safetensors".
        what: it should be, for example "a learned_embeds file".

    Raises:
        UserError: absent, torn, or a pickle with more than tensors in it.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{named}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a file that is no pickle ends the unpickler in many ways
        if type(error).__name__ != "UnpicklingError":
            raise UserError(f"{named}: not {what} ({first_line(error)}).") from error
        raise UserError(
            f"{named}: a pickle with more than tensors in it; convert it to "
            "safetensors with the tool that made it."
        ) from error
