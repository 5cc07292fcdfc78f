"""Whether a run's convolutions are computed by our own kernel or by PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.machine.convolution import layer
from training.machine.convolution.library import CONVOLUTION
from training.machine.convolution.operation import convolution, transform_weight
from training.machine.faster import times_as_fast, why_not_faster

TORCH, WINOGRAD = "torch", "winograd"
FEWEST = 50_000_000
"""Positions x channels in x channels out, half of 256 x 256 pixels of Stable Diffusion 1.5. What
has less takes milliseconds, and would be chosen by chance."""

Shape = tuple[int, int, int, int]
"""Height and width, output channels, input channels, side of a tile."""


def largest(unet: nn.Module, side: int) -> Shape | None:
    """The first convolution at the highest resolution; None: there is none for the kernel.

    Args:
        side: height and width of the latents.
    """
    found = layer.layers(unet, side).values()
    if not found:
        return None
    first, positions, outputs = max(found, key=lambda each: each[1])
    return positions, first.out_channels, first.in_channels, outputs


def why_torch(
    requested: str, shape: Shape | None, dtype: torch.dtype, notify: Callable[[str], None]
) -> str:
    """Why this process should take PyTorch's convolution; "": it should take the kernel.

    Args:
        requested: "torch", "winograd", or "auto", which times both.
        shape: of `largest`.
        notify: told that the kernel is being compiled.
    """
    if requested == TORCH:
        return "it was asked for"
    if dtype != torch.float32:
        return "the kernel computes in fp32 only"
    if shape is None:
        return "the UNet has no 3 x 3 convolution over 8 x 8 positions or more"
    if requested == "auto" and shape[0] ** 2 * shape[1] * shape[2] < FEWEST:
        return "the UNet's convolutions are small"
    if problem := CONVOLUTION.why_not(notify):
        return problem
    if requested == WINOGRAD:
        return ""
    return why_not_faster(measured_gain(shape))


def measured_gain(shape: Shape) -> float:
    """How many times as fast as PyTorch's the kernel is."""
    positions, many, few, outputs = shape
    weight = torch.linspace(-1, 1, many * few * 9).view(many, few, 3, 3)
    value = torch.linspace(-1, 1, few * positions**2).view(1, positions, positions, few)
    bias, transformed = torch.zeros(many), transform_weight(weight, outputs)

    def ours(given: Tensor) -> Tensor:
        return convolution(given, transformed, bias)

    def theirs(given: Tensor) -> Tensor:
        return F.conv2d(given, weight, bias, padding=1)

    return times_as_fast(ours, theirs, [value.permute(0, 3, 1, 2)])
