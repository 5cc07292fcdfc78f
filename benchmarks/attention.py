"""How fast is attention, PyTorch's and our own kernel, beside this machine's matrix product?

    python -m benchmarks.attention
    python -m benchmarks.attention --precision bf16

The shapes are those of Stable Diffusion 1.5's UNet at 512 x 512 pixels, batch 1: self-attention at
each resolution, and cross-attention to 77 tokens at the highest. Forward is 4 N M d operations per
head, backward 10 N M d, for N queries, M keys and d channels. The kernels take turns; each figure
is the median, with the fastest and the slowest in brackets, and its share of the fastest matrix
product that was timed before, between and after the shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernel_turns import Kernel, Seconds, parser, row, say, take_turns
from benchmarks.results import finish, machine
from benchmarks.train_step.floor import DTYPES, peak_tflops
from training.machine import vector_math
from training.machine.attention.choice import FUSED, TORCH
from training.machine.attention.library import ATTENTION
from training.machine.attention.operation import attention
from training.machine.cpu import this_cpu

HEADS = 8
SHAPES = ((4096, 4096, 40), (1024, 1024, 80), (256, 256, 160), (64, 64, 160), (4096, 77, 40))
"""Queries, keys and channels of a head."""
OPERATIONS = {"forward": 4, "backward": 10}
"""Per query, key and channel."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per shape and direction, end with a line of JSON."""
    flags = parser("attention", __doc__)
    flags.add_argument("--precision", choices=tuple(DTYPES), default="no", help="[no: fp32]")
    chosen = flags.parse_args(argv)
    vector_math.resolve_kernels()
    kernels: dict[str, Kernel] = {TORCH: F.scaled_dot_product_attention}
    if problem := ATTENTION.why_not(say):
        say(f"PyTorch's alone: {problem}")
    else:
        kernels[FUSED] = attention
    dtype, threads = DTYPES[chosen.precision], torch.get_num_threads()
    peaks, measured = [1000 * peak_tflops(dtype)], []
    for shape in SHAPES:
        say(f"{shape[0]} queries, {shape[1]} keys, {shape[2]} channels")
        *inputs, grad = _inputs(shape, dtype)
        turns = take_turns(kernels, inputs, grad, chosen.rounds)
        peaks.append(1000 * peak_tflops(dtype))
        measured += [(shape, direction, seconds) for direction, seconds in turns.items()]
    print(f"matrix product: {max(peaks):.0f} GFLOP/s, {chosen.precision}, {threads} threads")
    rows = [_row(shape, direction, each, max(peaks)) for shape, direction, each in measured]
    finish(
        {
            "benchmark": "attention",
            "machine": {**machine(), "instructions": this_cpu().flags},
            "torch": str(torch.__version__),
            "threads": threads,
            "precision": chosen.precision,
            "peaks_gflops": peaks,
            "rows": rows,
        },
        chosen.output,
    )
    return 0


def _inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value and the output's gradient."""
    queries, keys, channels = shape
    torch.manual_seed(0)
    made = [
        torch.randn(1, rows, HEADS, channels).to(dtype).transpose(1, 2)
        for rows in (queries, keys, keys, queries)
    ]
    return [*(each.requires_grad_() for each in made[:3]), made[3]]


def _row(
    shape: tuple[int, int, int], direction: str, seconds: Seconds, peak: float
) -> dict[str, object]:
    queries, keys, channels = shape
    gflop = OPERATIONS[direction] * HEADS * queries * keys * channels / 1e9
    name = f"{queries:>4} x {keys:>4} x {channels:>3}"
    found = row(name, direction, seconds, gflop, peak, FUSED)
    return {"queries": queries, "keys": keys, "channels": channels, **found}


if __name__ == "__main__":
    sys.exit(main())
