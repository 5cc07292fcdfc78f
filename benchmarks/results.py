"""What measurements have in common: middles of several runs, files and the line of JSON."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def middle(values: Sequence[float]) -> float:
    """The median: one run that was disturbed does not move it."""
    return statistics.median(values)


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
