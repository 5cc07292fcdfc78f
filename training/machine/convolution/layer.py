"""The kernel in a UNet or a VAE's encoder: their 3 x 3 convolutions over many positions."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from training.machine.convolution.operation import LANES, convolution, transform_weight

FEWEST_TILES = {4: 64, 2: 36, 1: 64}
"""Tiles of outputs in a picture, by their side: each is a row of the matrix products. Over fewer
rows these take as long as it takes to read the weights, which for tiles of 1 are the fewest."""


class WinogradConv2d(nn.Module):
    """A frozen convolution by our own operation; its weight is kept in the transformed form alone.

    Attributes:
        weight: float32 [(m + 2)^2, K, C] of `transform_weight`; not in `state_dict`.
        bias: float32 [K], or None.
    """

    weight: Tensor

    def __init__(self, layer: nn.Conv2d, outputs: int) -> None:
        super().__init__()
        weight = transform_weight(layer.weight, outputs)
        self.register_buffer("weight", weight, persistent=False)
        self.bias = layer.bias

    def forward(self, value: Tensor) -> Tensor:
        """float32 [N, K, H, W] of [N, C, H, W]."""
        return convolution(value, self.weight, self.bias)


def layers(unet: nn.Module, side: int) -> dict[str, tuple[nn.Conv2d, int, int]]:
    """By their names, the convolutions that the kernel can compute, and computes faster.

    Args:
        side: height and width of the latents.

    Returns:
        Of each: the layer, height and width of what it is given, and its tiles' side.
    """
    found = {}
    levels = _levels(unet)
    for name, layer in unet.named_modules():
        if _takes(layer) and (level := _level(name, levels)) is not None:
            positions = math.ceil(side / 2**level)
            if outputs := tile_side(positions):
                found[name] = (layer, positions, outputs)
    return found


def tile_side(side: int) -> int | None:
    """Which tiles suit a picture of `side` x `side` positions; None: PyTorch convolves it.

    Larger tiles need fewer multiplications and more weights, which have to be read for as many
    rows as there are tiles.
    """
    fitting = (m for m, fewest in FEWEST_TILES.items() if math.ceil(side / m) ** 2 >= fewest)
    return next(fitting, None)


def more_memory(unet: nn.Module, side: int) -> int:
    """Bytes that the transformed weights of a UNet take more than the original ones.

    Args:
        side: height and width of the latents.
    """
    return sum(
        layer.weight.nbytes * ((outputs + 2) ** 2 - 9) // 9
        for layer, _, outputs in layers(unet, side).values()
    )


@torch.no_grad()
def use_winograd(unet: nn.Module, side: int) -> int:
    """Let the kernel compute a UNet's frozen convolutions over many positions, from now on.

    Args:
        side: height and width of the latents.

    Returns:
        How many layers it computes.
    """
    count = 0
    found = layers(unet, side)
    for name in list(found):
        layer, _, outputs = found.pop(name)  # else all of them would be here twice
        if not layer.weight.requires_grad:
            unet.set_submodule(name, WinogradConv2d(layer, outputs))
            count += 1
    for left in unet.modules():
        if count and type(left) is nn.Conv2d and not left.weight.requires_grad:
            # What it returns lies as the kernel takes it: else it would be copied in each layer.
            weight = left.weight.detach().clone(memory_format=torch.channels_last)
            left.weight.data = weight
    return count


def is_winograd(unet: nn.Module) -> bool:
    """Whether the kernel computes in a UNet, as `use_winograd` has made it."""
    return any(isinstance(module, WinogradConv2d) for module in unet.modules())


def _takes(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.weight.dtype == torch.float32
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.in_channels % LANES == layer.out_channels % LANES == 0
    )


def _levels(unet: nn.Module) -> int:
    blocks = {match[1] for name, _ in unet.named_modules() if (match := DOWN.match(name))}
    return len(blocks)


DOWN = re.compile(r"down_blocks\.(\d+)\.resnets\.")
UP = re.compile(r"up_blocks\.(\d+)\.(resnets|upsamplers)\.")


def _level(name: str, levels: int) -> int | None:
    """How often the latents have been halved where a UNet's convolution is; None: not known."""
    if name.endswith("base_layer"):  # an adapter is beside it, which knows it as it is
        return None
    if match := DOWN.match(name):
        return int(match[1])
    if name.startswith("mid_block.resnets."):
        return levels - 1
    if match := UP.match(name):
        return levels - 1 - int(match[1]) - (match[2] == "upsamplers")
    return None
