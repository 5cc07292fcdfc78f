"""The files that hold a learned LoRA: diffusers' form, and the one A1111, ComfyUI and kohya read.

Both are written with the scale lora_alpha / rank multiplied into the second matrices: every program
then reads the same weights, whether it looks for a scale or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save_file

from training import atomic_files
from training.models.lora.adapters import DOWN, UP

KOHYA_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te"}
KOHYA_MATRICES = {DOWN: "lora_down", UP: "lora_up"}


def save_lora(path: Path, values: Mapping[str, torch.Tensor], scale: float) -> None:
    """Write adapters as diffusers' script does, and `load_lora_weights` reads them.

    Args:
        values: "<part>.<path of the layer>.lora_A.weight" and "...lora_B.weight"; written as
            float32.
        scale: what the product of the two is multiplied by.
    """
    tensors = convert_state_dict_to_diffusers(_scaled(values, scale))
    _write(path, tensors, {"format": "pt"})


def save_kohya(path: Path, values: Mapping[str, torch.Tensor], scale: float, rank: int) -> None:
    """Write adapters with the keys of kohya's scripts; arguments as of `save_lora`."""
    tensors = {}
    for name, value in _scaled(values, scale).items():
        layer, matrix, _ = name.rsplit(".", 2)
        part, _, place = layer.partition(".")
        key = f"{KOHYA_PARTS[part]}_{place.replace('.', '_')}"
        tensors[f"{key}.{KOHYA_MATRICES[matrix]}.weight"] = value
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    metadata = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    _write(path, tensors, metadata)


def _scaled(values: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().float().contiguous() * (scale if f".{UP}." in name else 1.0)
        for name, value in values.items()
    }


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    atomic_files.write_file(path, lambda temporary: save_file(tensors, temporary, metadata))
