"""Whether a run's self-attention is computed by our own kernel or by PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from training.machine.attention.library import ATTENTION
from training.machine.attention.operation import CHANNELS, attention
from training.machine.attention.processor import FEWEST, self_attention
from training.machine.faster import times_as_fast, why_not_faster

TORCH, FUSED = "torch", "fused"
TOKENS = 1024
"""With fewer at its highest resolution, a UNet spends next to nothing on self-attention."""

Shape = tuple[int, int, int]
"""Heads, tokens, channels of a head."""


def largest(unet: nn.Module, side: int) -> Shape | None:
    """The self-attention of the highest resolution; None: the UNet has none on its way down.

    Args:
        side: height and width of the latents.
    """
    for name, layer in self_attention(unet):
        if name.startswith("down_blocks."):
            level = int(name.split(".")[1])
            return layer.heads, (-(-side // 2**level)) ** 2, layer.inner_dim // layer.heads
    return None


def why_torch(
    requested: str, shape: Shape | None, dtype: torch.dtype, notify: Callable[[str], None]
) -> str:
    """Why this process should take PyTorch's attention; "": it should take the kernel.

    Args:
        requested: "torch", "fused", or "auto", which times both.
        shape: of `largest`.
        notify: told that the kernel is being compiled.
    """
    if requested == TORCH:
        return "it was asked for"
    if requested == "auto" and (shape is None or shape[1] < TOKENS):
        return f"the UNet has no self-attention over {TOKENS} tokens or more"
    if shape is None or shape[1] < FEWEST:
        return f"the UNet has no self-attention over {FEWEST} tokens or more"
    if shape[2] > CHANNELS:
        return f"heads have {shape[2]} channels, more than {CHANNELS}"
    if problem := ATTENTION.why_not(notify):
        return problem
    if requested == FUSED:
        return ""
    return why_not_faster(measured_gain(shape, dtype))


def measured_gain(shape: Shape, dtype: torch.dtype) -> float:
    """How many times as fast as PyTorch's the kernel is, over a head for each thread."""
    heads, tokens, channels = shape
    size = (1, tokens, min(heads, torch.get_num_threads()), channels)
    rows = torch.linspace(-1, 1, size[1] * size[2] * size[3], dtype=dtype).view(size)
    return times_as_fast(attention, F.scaled_dot_product_attention, [rows.transpose(1, 2)] * 3)
