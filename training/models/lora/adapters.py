"""LoRA adapters (Hu et al. 2021): what they start from, and how they enter frozen models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from torch.nn import functional as F

from training.errors import UserError

ADAPTER = "default"
DOWN, UP = "lora_A", "lora_B"
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The projections of the text encoder's attention, which diffusers' DreamBooth script trains."""


def find_layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The linear layers and convolutions of `model` that `names` name, by their paths.

    A name is a layer's path, or the end of paths, from a dot on.

    Raises:
        UserError: a name fits nothing, or what it fits is neither.
    """
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for name in names:
        fitting = {
            path: module
            for path, module in modules.items()
            if path == name or path.endswith(f".{name}")
        }
        layers = {path: m for path, m in fitting.items() if isinstance(m, nn.Linear | nn.Conv2d)}
        if not layers:
            raise UserError(f"lora_layers {name}: {_why_none(name, fitting, modules)}")
        found |= layers
    return {path: module for path, module in modules.items() if path in found}


def _why_none(name: str, fitting: dict[str, nn.Module], modules: dict[str, nn.Module]) -> str:
    if fitting:
        path, module = next(iter(fitting.items()))
        kind = type(module).__name__
        return f"{path} is neither linear nor a convolution (it is a {kind})."
    ends = {
        ".".join(path.split(".")[-parts:])
        for path, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for parts in (1, 2)
    }
    near = difflib.get_close_matches(name, sorted(ends), n=3, cutoff=0.4)
    return "no layer of the UNet is called so" + (f"; near: {', '.join(near)}." if near else ".")


def starting_matrices(
    layers: dict[str, nn.Module], rank: int, generator_of: Callable[[str], torch.Generator]
) -> dict[str, torch.Tensor]:
    """What the adapters of `layers` start from: "<path>.lora_A.weight", "<path>.lora_B.weight".

    The first matrix is normal with a deviation of 1 / rank, the second zero, as diffusers' script
    asks PEFT for ("gaussian"). float32; [rank, in] and [out, rank] for a linear layer,
    [rank, in, height, width] and [out, rank, 1, 1] for a convolution.

    Args:
        generator_of: makes that of a layer, by its path.

    Raises:
        UserError: `rank` is larger than a layer.
    """
    start: dict[str, torch.Tensor] = {}
    for path, layer in layers.items():
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        largest = min(weight.shape[0], weight[0].numel())
        if rank > largest:
            raise UserError(
                f"rank {rank}: is larger than {path}, whose weight is {tuple(weight.shape)}; at "
                f"most {largest} makes sense there. Usual ranks are from 4 to 64."
            )
        down = (rank, *weight.shape[1:])
        up = (weight.shape[0], rank, *([1] * (weight.dim() - 2)))
        start[f"{path}.{DOWN}.weight"] = torch.randn(down, generator=generator_of(path)) / rank
        start[f"{path}.{UP}.weight"] = torch.zeros(up)
    return start


def add_adapters(
    model: Any, start: dict[str, torch.Tensor], rank: int, alpha: float, dropout: float
) -> dict[str, nn.Parameter]:
    """Put PEFT's adapters into a frozen model; returns their matrices under the names of `start`.

    The matrices are float32 whatever the model is in; autocast brings the two together.

    Args:
        model: diffusers' or transformers'; changed.
        start: of `starting_matrices`.
    """
    paths = list(dict.fromkeys(name.rsplit(".", 2)[0] for name in start))
    config = PeftConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=paths)  # type: ignore[arg-type]
    # What has prepared the model may have put layers of its own in the place of torch's.
    kinds = {type(model.get_submodule(path)) for path in paths}
    own: dict[type[nn.Module], type[nn.Module]] = {
        kind: LoraLinear for kind in kinds if not issubclass(kind, nn.Linear | nn.Conv2d)
    }
    if own:
        config._register_custom_module(own)
    model.add_adapter(config)
    parameters = {}
    for path in paths:
        layer = model.get_submodule(path)
        layer.cast_input_dtype_enabled = False
        if dropout:
            layer.lora_dropout[ADAPTER] = TrainingDropout(dropout)
        for which in (DOWN, UP):
            name = f"{path}.{which}.weight"
            matrix = getattr(layer, which)[ADAPTER]
            matrix.weight = nn.Parameter(start[name].clone())
            parameters[name] = matrix.weight
    return parameters


@torch.no_grad()
def fuse_adapters(model: nn.Module, values: Mapping[str, torch.Tensor], scale: float) -> None:
    """Add the products of the matrices to the weights of a model without adapters.

    Args:
        values: under the names of `starting_matrices`.
        scale: what each product is multiplied by.
    """
    for name, down in values.items():
        path, which, _ = name.rsplit(".", 2)
        if which == DOWN:
            weight: torch.Tensor = model.get_submodule(path).weight  # type: ignore[assignment]
            up = values[f"{path}.{UP}.weight"].detach()
            product = up.flatten(1) @ down.detach().flatten(1)
            weight += scale * product.view_as(weight)


class TrainingDropout(nn.Module):
    """Dropout where gradients are wanted, and nowhere else: not where pictures are drawn."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Leave out a share `p` of `x`, any shape."""
        return F.dropout(x, self.p, training=torch.is_grad_enabled())


def set_weight(model: nn.Module, weight: float) -> None:
    """How much of its adapters a model has: 0 is none, 1 is all."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(ADAPTER, weight)
