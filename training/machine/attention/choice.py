"""Whether a run's self-attention is computed by our own kernel or by PyTorch's."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.machine.attention.library import ATTENTION
from training.machine.attention.operation import CHANNELS, attention
from training.machine.attention.processor import FEWEST, self_attention
from training.machine.kernel_library import CannotBuild

TORCH, FUSED = "torch", "fused"
TOKENS = 1024
"""With fewer at its highest resolution, a UNet spends next to nothing on self-attention."""
ROUNDS = 3
WORTH = 1.1
"""How many times as fast it must be: what is near that would be chosen by chance."""

Shape = tuple[int, int, int]
"""Heads, tokens, channels of a head."""
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    if problem := why_not(notify):
        return problem
    if requested == FUSED:
        return ""
    gain = measured_gain(shape, dtype)
    return "" if gain >= WORTH else f"on this processor the kernel is {gain:.2f} times as fast"


def why_not(notify: Callable[[str], None]) -> str:
    """Why this machine has no kernel; "": it has one, and it is loaded."""
    try:
        ATTENTION.load(notify)
    except CannotBuild as error:
        return str(error)
    return ""


def measured_gain(shape: Shape, dtype: torch.dtype) -> float:
    """How many times as fast as PyTorch's the kernel is, forward and backward.

    The fastest of `ROUNDS` interleaved passes each, over a head for each thread.
    """
    heads, tokens, channels = shape
    size = (1, tokens, min(heads, torch.get_num_threads()), channels)
    rows = torch.linspace(-1, 1, size[1] * size[2] * size[3], dtype=dtype).view(size)
    kernels: dict[str, Kernel] = {TORCH: F.scaled_dot_product_attention, FUSED: attention}
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    for _ in range(ROUNDS):
        for name, kernel in kernels.items():
            query, key, value = (rows.transpose(1, 2).detach().requires_grad_() for _ in range(3))
            began = time.perf_counter()
            with torch.enable_grad():
                out = kernel(query, key, value)
                torch.autograd.grad(out, (query, key, value), torch.ones_like(out))
            seconds[name].append(time.perf_counter() - began)
    return min(seconds[TORCH]) / min(seconds[FUSED])
