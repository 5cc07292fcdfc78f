"""The attention kernel's functions, as `kernel/kernel.cpp` says."""

from __future__ import annotations

from pathlib import Path

from training.machine.kernel_library import (
    AVX2,
    AVX512,
    Float,
    Integer,
    KernelLibrary,
    Pointer,
    Size,
)

ATTENTION = KernelLibrary(
    name="attention",
    sources=Path(__file__).with_name("kernel"),
    signatures={
        "attention_forward_scratch": (Size, (Pointer,)),
        "attention_backward_scratch": (Size, (Pointer, Integer)),
        "attention_forward": (None, (Integer, *[Pointer] * 8, Float, Integer)),
        "attention_backward": (None, (Integer, *[Pointer] * 12, Float, Integer)),
    },
    instructions=(AVX512, AVX2),
)
