"""The convolution kernel's functions, as `kernel/kernel.cpp` says."""

from __future__ import annotations

from pathlib import Path

from training.machine.kernel_library import AVX2, AVX512, Integer, KernelLibrary, Pointer

CONVOLUTION = KernelLibrary(
    name="convolution",
    sources=Path(__file__).with_name("kernel"),
    signatures={
        "convolution_inputs": (None, (Integer, Integer, Pointer, Pointer, Pointer, Integer)),
        "convolution_outputs": (None, (Integer, Integer, *[Pointer] * 4, Integer)),
        "convolution_weights": (None, (Integer, Pointer, Pointer, Pointer, Integer)),
    },
    instructions=(AVX512, AVX2),
)
