"""The ladder in docs/: a table, and a plot beside what Hugging Face's articles measured."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

from benchmarks.inference_ladder.rows import HEAD, Figures, cells
from benchmarks.inference_ladder.rungs import RUNGS

PUBLISHED = {
    "system": 32.3 / 11.8,
    "ipex-bf16": 32.3 / 5.4,
    "dpmpp": 32.3 / 5.05,
    "openvino-dynamic": 32.3 / 16.7,
    "openvino-bf16": 32.3 / 4.7,
    "openvino-int8": 3.9,
    "openvino-int8-merged": 5.1,
}
"""Times PyTorch in fp32. All but the last two: Simon and Echarlaix, "Accelerating Stable Diffusion
Inference on Intel CPUs" (2023): 32 cores of a Sapphire Rapids Xeon, 20 steps, OpenVINO in bf16,
DPM++ over IPEX. The last two: Kozlov et al., "Optimizing Stable Diffusion for Intel CPUs with NNCF
and Optimum" (2023): an Ice Lake Xeon of 8 vCPUs, quantized while training."""


def ladder_table(figures: Figures) -> str:
    """In Markdown, a row per rung."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for rung in RUNGS:
        row = cells(figures[rung.key])
        rows.append((*row, *[""] * (len(HEAD) - len(row))))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def ladder_plot(figures: Figures) -> Any:
    """A figure: times PyTorch in fp32 by rung, measured and published."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    places = range(len(RUNGS))
    ratios = [figures[rung.key]["ratio"] or 0 for rung in RUNGS]
    bars = axes.barh(places, ratios, height=0.6, label="measured here")
    axes.bar_label(bars, [f" {each:.1f}x" if each else " not run" for each in ratios], fontsize=8)
    published = [(place, PUBLISHED[rung.key]) for place, rung in enumerate(RUNGS)
                 if rung.key in PUBLISHED]  # fmt: skip
    axes.plot(
        [ratio for _, ratio in published], [place for place, _ in published], "D", color="C1",
        label="published in 2023, other processors",
    )  # fmt: skip
    axes.set_yticks(places, [rung.title for rung in RUNGS])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="times PyTorch in fp32")
    axes.legend(fontsize=8)
    return figure
