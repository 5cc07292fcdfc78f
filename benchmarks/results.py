"""What measurements have in common: middles of several runs, files and the line of JSON."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def middle(values: Sequence[float]) -> float:
    """The median: one run that was disturbed does not move it."""
    return statistics.median(values)


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Between what the median lies with 95 % confidence, whatever the distribution.

    The binomial's order statistics (n / 2 -+ 0.98 sqrt(n)); of few values, the whole range.
    """
    ordered, count = sorted(values), len(values)
    below = max(math.floor(count / 2 - 0.98 * math.sqrt(count)) - 1, 0)
    return ordered[below], ordered[count - 1 - below]


def machine() -> dict[str, object]:
    """Where it was measured: processor, its cores, the system."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else "unknown",
        "processors": len(names),
        "system": platform.release(),
    }


def finish(figures: Mapping[str, object], output: Path | None) -> None:
    """Write the figures to a file, if one is wanted, and print them as the last line."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures), flush=True)
