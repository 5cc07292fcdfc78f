"""A timed all-reduce over a launcher's ranks: `mpirun -n 2 python -m training.all_reduce`.

The first rank prints one JSON object: latency of the smallest message, bandwidth of a large one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from training.errors import UserError
from training.machine import vector_math
from training.machine.stack import resolve_stack
from training.ranks.launcher import Ranks
from training.ranks.process_group import all_reduce_sum, barrier, joined_process_group

SMALL, LARGE = 1, 4_000_000
"""Elements of float32: four bytes, and 16 MB."""
WARM_UP = 3
TIMEOUT_SECONDS = 60


def median_seconds(elements: int, repeats: int, ranks: Ranks) -> float:
    """The median time of one all-reduce of `elements` float32, in seconds.

    Raises:
        UserError: the sum is wrong.
    """
    times = []
    for number in range(WARM_UP + repeats):
        values = torch.full((elements,), float(ranks.rank + 1))
        barrier(ranks)
        begun = time.perf_counter()
        all_reduce_sum(values, ranks)
        seconds = time.perf_counter() - begun
        if number >= WARM_UP:
            times.append(seconds)
        wanted = ranks.size * (ranks.size + 1) / 2
        if not torch.all(values == wanted):
            raise UserError(f"rank {ranks.rank}: the all-reduce of {elements} values is wrong.")
    return statistics.median(times)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where the ranks cannot meet or a sum is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.all_reduce", description=__doc__)
    parser.add_argument("--backend", choices=("auto", "ccl", "gloo"), default="auto")
    parser.add_argument("--repeats", type=int, default=20, help="of each size (default: 20)")
    chosen = parser.parse_args(argv)
    vector_math.resolve_kernels()
    # The backend ccl is there once oneCCL's bindings have been imported.
    stack = None if chosen.backend == "gloo" else resolve_stack("auto")
    backend, problem = (stack.backend, stack.problem) if stack else ("gloo", "")
    try:
        with joined_process_group(backend, TIMEOUT_SECONDS, os.environ, problem) as ranks:
            if chosen.backend == "ccl" and ranks.size > 1 and ranks.backend != "ccl":
                raise UserError(ranks.notice or "oneCCL's bindings are not installed on any rank.")
            if ranks.size == 1:
                raise UserError("one rank has nobody to sum with: start it under mpirun -n 2.")
            latency = median_seconds(SMALL, chosen.repeats, ranks)
            seconds = median_seconds(LARGE, max(3, chosen.repeats // 4), ranks)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if ranks.is_main_process:
        size = 4 * LARGE
        figures = {
            "backend": ranks.backend,
            "ranks": ranks.size,
            "latency_seconds": latency,
            "bytes": size,
            "bytes_per_second": size / seconds,
        }
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
