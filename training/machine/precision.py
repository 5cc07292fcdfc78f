"""Which precision the frozen weights have where none is asked for: the faster one here."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

from training.machine.cpu import Cpu

SHAPE = (4096, 320, 2560)
"""Rows, inputs and outputs of the largest matrix product at 64 x 64 in Stable Diffusion's UNet."""
ROUNDS = 5
WORTH = 1.3
"""How much faster a matrix product in bf16 must be: what surrounds it is slower in bf16."""


def resolve_dtype(
    mixed_precision: str, cpu: Cpu, measure: Callable[[], float] | None = None
) -> torch.dtype:
    """The dtype of the frozen weights.

    "auto" is bf16 with AMX, and float32 without bf16 instructions. With AVX512-BF16 alone it is
    measured: Cooper Lake multiplies twice as fast with these instructions, Sapphire and Emerald
    Rapids no faster than in float32.

    Args:
        mixed_precision: "auto", "no" or "bf16".
        measure: how many times as fast a product in bf16 is; `measured_gain` unless given.
    """
    if mixed_precision != "auto":
        return torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    if not cpu.computes_bf16:
        return torch.float32
    faster = cpu.has_amx or (measure or measured_gain)() >= WORTH
    return torch.bfloat16 if faster else torch.float32


@cache
def measured_gain() -> float:
    """How many times as fast as in float32 this process multiplies matrices in bf16.

    The fastest of `ROUNDS` interleaved products each: what else runs here only makes one slower.
    """
    rows, inputs, outputs = SHAPE
    operands = {
        dtype: (torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in operands}
    for _ in range(ROUNDS + 1):
        for dtype, (values, weights) in operands.items():
            began = time.perf_counter()
            F.linear(values, weights)
            seconds[dtype].append(time.perf_counter() - began)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])
