"""Kernels that take turns at the same inputs, forward and backward, and rows of what they took."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.results import middle

Kernel = Callable[..., Tensor]
Seconds = dict[str, list[float]]
"""Of each round, by kernel."""
DIRECTIONS = ("forward", "backward")
AT_LEAST = 0.02
"""Seconds that are timed together: what takes less is repeated."""


def take_turns(
    kernels: Mapping[str, Kernel], inputs: Sequence[Tensor], grad: Tensor, rounds: int
) -> dict[str, Seconds]:
    """Seconds by direction and kernel; the first round, which warms up, is left out.

    Args:
        inputs: what each kernel is given; gradients are taken for those that require them.
        grad: of the output.
    """
    wanted = [value for value in inputs if value.requires_grad]
    found: dict[str, Seconds] = {key: {name: [] for name in kernels} for key in DIRECTIONS}
    repeats = 1
    for number in range(rounds + 1):
        for name, kernel in kernels.items():
            began = time.perf_counter()
            for _ in range(repeats):
                out = kernel(*inputs)
            between = time.perf_counter()
            for _ in range(repeats):
                torch.autograd.grad(out, wanted, grad, retain_graph=True)
            ended = time.perf_counter()
            if number:
                found["forward"][name].append((between - began) / repeats)
                found["backward"][name].append((ended - between) / repeats)
        if not number:
            repeats = max(1, round(AT_LEAST / (between - began)))
    return found


def row(
    shape: str, direction: str, seconds: Seconds, gflop: float, peak: float, ours: str
) -> dict[str, object]:
    """Print what the kernels took, and return it.

    Args:
        gflop: 10^9 operations, by which speeds are reckoned.
        peak: 10^9 operations per second of a matrix product.
        ours: the kernel that is compared with the first.
    """
    cells = []
    for name, each in seconds.items():
        typical = middle(each)
        cells.append(
            f"{name} {1000 * typical:7.2f} ms ({1000 * min(each):.2f} to {1000 * max(each):.2f}), "
            f"{gflop / typical:4.0f} GFLOP/s, {gflop / typical / peak:4.0%}"
        )
    theirs = next(iter(seconds))
    ratio = middle(seconds[theirs]) / middle(seconds[ours]) if ours in seconds else None
    print(
        f"{shape} {direction:<8}  " + "   ".join(cells) + (f"   {ratio:.2f}x" if ratio else ""),
        flush=True,
    )
    return {
        "direction": direction,
        "gflop": gflop,
        "seconds": seconds,
        "gflops": {name: gflop / middle(each) for name, each in seconds.items()},
        "share_of_peak": {name: gflop / middle(each) / peak for name, each in seconds.items()},
        "times_as_fast": ratio,
    }


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """The flags of a benchmark of kernels."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--rounds", type=int, default=9, help="per kernel and shape [9]")
    made.add_argument("--output", type=Path, help="a file for the figures as JSON")
    return made


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)
