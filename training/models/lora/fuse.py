"""LoRA files, fused into a model's weights: diffusers' files and kohya's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from training.errors import UserError, first_line
from training.models.files import tensor_files

FLAG = "--lora"
PARTS = ("unet", "text_encoder")


def fuse_loras(pipeline: Any, loras: Sequence[tuple[Path, float]]) -> None:
    """Add LoRAs to the weights of a pipeline's UNet and text encoder, in float32.

    Args:
        pipeline: a StableDiffusionPipeline; its weights are changed for good.
        loras: each file and its weight (1: all of it). They add up, in whatever order.

    Raises:
        UserError: a file cannot be read, is no LoRA, or is of another base model.
    """
    if not loras:
        return
    names, weights = [], []
    for number, (path, weight) in enumerate(loras):
        name, named = f"lora_{number}", f"{FLAG} {path}"
        tensors = tensor_files.read(path, named, "a LoRA file")
        if not isinstance(tensors, dict) or not tensors:
            raise UserError(f"{named}: not a LoRA file (it holds no tensors).")
        try:
            state, _ = StableDiffusionPipeline.lora_state_dict(
                dict(tensors), unet_config=pipeline.unet.config
            )
        except Exception as error:  # diffusers' converters stumble in many ways over other files
            raise UserError(_foreign(named, first_line(error)[:300])) from error
        _refuse_other_shapes(pipeline, state, named)
        try:
            pipeline.load_lora_weights(dict(tensors), adapter_name=name)
        except Exception as error:  # so does PEFT
            raise UserError(_foreign(named, first_line(error)[:300])) from error
        names.append(name)
        weights.append(weight)
    pipeline.set_adapters(names, weights)
    pipeline.fuse_lora(components=list(PARTS), adapter_names=names)
    pipeline.unload_lora_weights()
    # transformers would go on naming the text encoder's weights as those of an adapted one: a
    # saved pipeline could not be loaded.
    pipeline.text_encoder._weight_conversions = None


def _foreign(named: str, why: str) -> str:
    return (
        f"{named}: is no LoRA for this model ({why}). It must be one of diffusers or kohya, for "
        "the base model that it is used with."
    )


def _refuse_other_shapes(pipeline: Any, state: dict[str, torch.Tensor], named: str) -> None:
    """Make sure that each matrix has its layer, of its width, in this model.

    Args:
        state: in diffusers' layout: `unet.<layer>.lora_A.weight` or `...lora.down.weight`.

    Raises:
        UserError: names the first that does not fit, and both widths.
    """
    layers = {
        f"{part}.{name}": module
        for part in PARTS
        for name, module in getattr(pipeline, part).named_modules()
    }
    known = 0
    for key, value in state.items():
        layer, down = _layer(key)
        if layer is None:
            continue
        module = layers.get(layer)
        weight = getattr(module, "weight", None)
        if weight is None:
            raise UserError(_foreign(named, f"the model has no layer {layer}"))
        axis = 1 if down else 0
        if value.shape[axis] != weight.shape[axis]:
            raise UserError(
                _foreign(
                    named,
                    f"{layer} is {weight.shape[axis]} wide, the LoRA's is {value.shape[axis]}",
                )
            )
        known += 1
    if not known:
        raise UserError(_foreign(named, "nothing in it belongs to a layer of this model"))


ENDS = (
    (".lora_A.weight", True),
    (".lora.down.weight", True),
    (".lora_linear_layer.down.weight", True),
    (".down.weight", True),
    (".lora_B.weight", False),
    (".lora.up.weight", False),
    (".lora_linear_layer.up.weight", False),
    (".up.weight", False),
)
"""How the names of a LoRA's matrices end, and whether that is the first of the two."""


def _layer(key: str) -> tuple[str | None, bool]:
    """The layer that a tensor of a LoRA changes, and whether it is the first of its matrices."""
    for end, down in ENDS:
        if key.endswith(end):
            layer = key.removesuffix(end)
            for name in ("to_q", "to_k", "to_v"):
                layer = layer.replace(f"processor.{name}_lora", name)
            return layer.replace("processor.to_out_lora", "to_out.0"), down
    return None, False
