"""One function of many scenes, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import starmap
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")

WORTH_A_PROCESS = 2000
"""Fewer calls than these end sooner than other processes have started."""


def in_parallel(
    function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], workers: int | None = None
) -> list[Result]:
    """Results of a module's function for each call's arguments, in their order.

    `workers` is the number of processes, by default one for each core.
    """
    calls, workers = list(calls), workers or os.cpu_count() or 1
    if workers < 2 or len(calls) < WORTH_A_PROCESS:
        return list(starmap(function, calls))
    with get_context("spawn").Pool(workers) as pool:
        return pool.starmap(function, calls, chunksize=256)
