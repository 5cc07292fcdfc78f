"""Whether a kernel of our own is so much faster than PyTorch's that it is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDS = 3
WORTH = 1.1
"""How many times as fast it must be: what is near that would be chosen by chance."""


def why_not_faster(gain: float) -> str:
    """Why a kernel that is `gain` times as fast is not taken; "": it is."""
    return "" if gain >= WORTH else f"on this processor the kernel is {gain:.2f} times as fast"


def times_as_fast(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> float:
    """How many times as fast as `theirs` `ours` is, forward and backward to all of its inputs.

    The fastest of `ROUNDS` interleaved passes each.
    """
    seconds: dict[Callable[..., Tensor], list[float]] = {theirs: [], ours: []}
    for _ in range(ROUNDS):
        for kernel, taken in seconds.items():
            given = [value.detach().requires_grad_() for value in inputs]
            began = time.perf_counter()
            with torch.enable_grad():
                out = kernel(*given)
                torch.autograd.grad(out, given, torch.ones_like(out))
            taken.append(time.perf_counter() - began)
    return min(seconds[theirs]) / min(seconds[ours])
