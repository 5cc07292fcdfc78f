"""The plot and the tables of docs/performance.md, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.results import middle

Figures = Mapping[str, Any]
PRECISIONS = {"no": "fp32", "bf16": "bf16"}
ENGINES = ("native", "compiled", "ipex")
SIDES = {
    "reference": "diffusers' step",
    "reference_ipex": "diffusers' step with IPEX",
    "peer": "diffusers' script",
    "native": "`--frozen native`",
    "compiled": "`--frozen compiled`",
    "ipex": "`--frozen ipex`",
}


def step_table(figures: Figures) -> str:
    """A row for the reference and each engine of each precision of `benchmarks.train_step`."""
    lines = [
        ("precision", "", "s per step", "speed", "share of the peak", "peak memory", "memory"),
        ("---",) * 7,
    ]
    for precision, turns in figures["turns"].items():
        peak = figures["peak_tflops"][precision]
        middles = {
            side: middle([turn["seconds"] for turn in found]) for side, found in turns.items()
        }
        memory = {side: max(turn["peak_gb"] for turn in found) for side, found in turns.items()}
        for side, seconds in middles.items():
            reference = side == "reference"
            ours = side in ENGINES
            lines.append(
                (
                    PRECISIONS[precision],
                    SIDES[side],
                    f"{seconds:.2f}",
                    "1" if reference else f"{middles['reference'] / seconds:.2f}x",
                    f"{figures['step_tflop'] / seconds / peak:.0%}" if ours else "",
                    f"{memory[side]:.1f} GB",
                    "1" if reference else f"{memory[side] / memory['reference']:.2f}x",
                )
            )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def quality_table(figures: Figures) -> str:
    """A row per variant of `benchmarks.steps_to_quality`: the median, and each seed's steps."""
    lines = [("flags", "steps, the median", "of each seed"), ("---",) * 3]
    for name, steps in figures["steps"].items():
        lines.append((f"{name}", f"{middle(steps):g}", ", ".join(map(str, steps))))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def breakdown_table(figures: Figures) -> str:
    """Seconds by kind of operation, a row per engine of `benchmarks.train_step.breakdown`."""
    kinds = list(next(iter(figures["seconds"].values())))
    lines = [("", *kinds, "together"), ("---",) * (len(kinds) + 2)]
    for engine, seconds in figures["seconds"].items():
        each = [f"{seconds[kind]:.2f} s" for kind in kinds]
        lines.append((SIDES[engine], *each, f"{sum(seconds.values()):.2f} s"))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def breakdown_plot(figures: Figures) -> Any:
    """A bar per engine, in parts by kind of operation."""
    engines = list(figures["seconds"])
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.6 * len(engines)), layout="constrained")
    left = [0.0] * len(engines)
    for kind in next(iter(figures["seconds"].values())):
        parts = [figures["seconds"][engine][kind] for engine in engines]
        bars = axes.barh(engines, parts, left=left, label=kind)
        axes.bar_label(bars, [f"{part:.1f}" for part in parts], label_type="center", fontsize=8)
        left = [start + part for start, part in zip(left, parts, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="seconds per step, Stable Diffusion 1.5's size, 512 x 512, batch 1")
    axes.margins(x=0.02)
    axes.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure
