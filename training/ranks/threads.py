"""How many threads a rank computes with: OMP_NUM_THREADS, or its share of the cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.machine.cpu import this_cpu, threads_per_rank
from training.ranks.launcher import Ranks

SETS_ONE_THREAD = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
"""Variables by which torchrun's and `accelerate launch`'s processes are known."""


@dataclass(frozen=True)
class Threads:
    """The threads of one rank.

    Attributes:
        count: how many.
        from_environment: whether OMP_NUM_THREADS has said so.
    """

    count: int
    from_environment: bool


def omp_num_threads(environment: Mapping[str, str]) -> int | None:
    """OMP_NUM_THREADS, where a person has set it; else None.

    A 1 under torchrun or `accelerate launch` does not count: they set it where nobody else has.
    """
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one per nesting level
    threads = int(first) if first.isdecimal() else 0
    by_default = any(name in environment for name in SETS_ONE_THREAD)
    return None if threads == 0 or (threads == 1 and by_default) else threads


def set_threads(ranks: Ranks) -> Threads:
    """Set PyTorch's threads, and OMP_NUM_THREADS where it is not set."""
    requested = omp_num_threads(os.environ)
    count = requested or threads_per_rank(this_cpu(), ranks.local_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    torch.set_num_threads(count)
    return Threads(count, requested is not None)
