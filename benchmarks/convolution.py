"""How fast is a 3 x 3 convolution, PyTorch's and our own kernel, beside a matrix product?

    python -m benchmarks.convolution

The shapes are those of Stable Diffusion 1.5's UNet at 512 x 512 pixels, batch 1, fp32. A
convolution from C to K channels over H x W positions is 18 H W C K operations, forward and
backward; what our own kernel leaves out of them counts as done, so that its share of the matrix
product may exceed 1. The kernels take turns; each figure is the median, with the fastest and the
slowest in brackets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernel_turns import Kernel, Seconds, parser, row, say, take_turns
from benchmarks.results import finish, machine
from benchmarks.train_step.floor import peak_tflops
from training.machine import vector_math
from training.machine.convolution.choice import TORCH, WINOGRAD
from training.machine.convolution.layer import tile_side
from training.machine.convolution.library import CONVOLUTION
from training.machine.convolution.operation import convolution, transform_weight
from training.machine.cpu import this_cpu

SHAPES = ((64, 320, 320), (64, 640, 320), (32, 640, 640), (32, 1280, 640), (16, 1280, 1280),
          (16, 2560, 1280), (8, 1280, 1280), (8, 2560, 1280))  # fmt: skip
"""Height and width, channels in and out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per shape and direction, end with a line of JSON."""
    chosen = parser("convolution", __doc__).parse_args(argv)
    vector_math.resolve_kernels()
    if problem := CONVOLUTION.why_not(say):
        say(f"PyTorch's alone: {problem}")
    peaks, measured = [1000 * peak_tflops(torch.float32)], []
    for shape in SHAPES:
        say("{0} x {0} positions, {1} to {2} channels".format(*shape))
        turns = take_turns(*_problem(shape, WINOGRAD if not problem else TORCH), chosen.rounds)
        peaks.append(1000 * peak_tflops(torch.float32))
        measured += [(shape, direction, seconds) for direction, seconds in turns.items()]
    threads = torch.get_num_threads()
    print(f"matrix product: {max(peaks):.0f} GFLOP/s, fp32, {threads} threads")
    finish(
        {
            "benchmark": "convolution",
            "machine": {**machine(), "instructions": this_cpu().flags},
            "torch": str(torch.__version__),
            "threads": threads,
            "peaks_gflops": peaks,
            "rows": [_row(*each, max(peaks)) for each in measured],
        },
        chosen.output,
    )
    return 0


def _problem(
    shape: tuple[int, int, int], last: str
) -> tuple[dict[str, Kernel], list[Tensor], Tensor]:
    """The kernels up to `last`, what they are given, and the output's gradient."""
    side, before, after = shape
    torch.manual_seed(0)
    value, grad = (
        torch.randn(1, channels, side, side).to(memory_format=torch.channels_last)
        for channels in (before, after)
    )
    weight = torch.randn(after, before, 3, 3) / (9 * before) ** 0.5
    bias = torch.randn(after)
    kernels: dict[str, Kernel] = {TORCH: lambda given: F.conv2d(given, weight, bias, padding=1)}
    outputs = tile_side(side)
    if last == WINOGRAD and outputs:
        transformed = transform_weight(weight, outputs)
        kernels[WINOGRAD] = lambda given: convolution(given, transformed, bias)
    return kernels, [value.requires_grad_()], grad


def _row(
    shape: tuple[int, int, int], direction: str, seconds: Seconds, peak: float
) -> dict[str, object]:
    side, before, after = shape
    gflop = 18 * side**2 * before * after / 1e9
    found = row(
        f"{side:>2} x {side:<2} {before:>4} to {after:>4}", direction, seconds, gflop, peak,
        WINOGRAD,
    )  # fmt: skip
    return {"side": side, "channels_in": before, "channels_out": after, **found}


if __name__ == "__main__":
    sys.exit(main())
