"""What was measured, as figures by rung: medians, ratios to PyTorch in fp32, distances."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.inference_ladder.compare import psnr, ssim
from benchmarks.inference_ladder.measure import PICTURES
from benchmarks.inference_ladder.process import GUIDANCE, MINI_SCHEDULER, SIDE
from benchmarks.inference_ladder.rows import HEAD, Figures, cells
from benchmarks.inference_ladder.rungs import BASE, RUNGS, Rung
from benchmarks.results import machine, middle
from training.machine.cpu import this_cpu


def figures_of(measured: list[dict[str, Any]], folder: Path, mini: bool, steps: int) -> Figures:
    """By rung's key, beside "benchmark", "machine" and "pictures".

    Args:
        measured: of each process its rung and what it found, or why there is nothing.
        steps: drawn at full size.
    """
    figures: Figures = {
        "benchmark": "inference_ladder",
        "machine": {**machine(), "instructions": this_cpu().flags},
        "pictures": {
            "model": "bundled" if mini else "Stable Diffusion 1.5's size, random weights",
            "side": SIDE[mini],
            "guidance_scale": GUIDANCE[mini],
            "steps_drawn": "all" if mini else steps,
        },
    }
    of_base = [each for each in measured if each["rung"] == BASE.key and "seconds" in each]
    base = middle([second for each in of_base for second in each["seconds"]]) if of_base else None
    for rung in RUNGS:
        found = [each for each in measured if each["rung"] == rung.key]
        figures[rung.key] = {"title": rung.title, **_of_rung(rung, found, base, folder, mini)}
    return figures


def _of_rung(
    rung: Rung, found: list[dict[str, Any]], base: float | None, folder: Path, mini: bool
) -> Figures:
    run = [each for each in found if "seconds" in each]
    if not run or base is None:
        reason = found[-1].get("reason", "PyTorch in fp32 failed") if found else "was not asked for"
        return {"ratio": None, "reason": reason}
    seconds = middle([second for each in run for second in each["seconds"]])
    last = run[-1]
    near = _distance(rung, folder, mini)
    return {
        "ratio": round(base / seconds, 2),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(middle([cpu for each in run for cpu in each["cpu_seconds"]]), 2),
        "step_seconds": round(middle([each["step_seconds"] for each in run]), 3),
        "first_seconds": round(middle([each["first_seconds"] for each in run]), 1),
        "peak_gb": round(max(each["peak_bytes"] for each in run) / 1e9, 2),
        "weights_gb": round(last["weights_bytes"] / 1e9, 4),
        "steps": rung.steps,
        "scheduler": MINI_SCHEDULER if mini and not rung.lcm else rung.scheduler,
        "torch": last["torch"],
        "preloaded": last["preloaded"],
        "turns": len(run),
        **near,
    }


def _distance(rung: Rung, folder: Path, mini: bool) -> Figures:
    """From the picture of PyTorch in fp32 with the same scheduler."""
    if rung.lcm:
        return {"psnr": None, "ssim": None, "no_distance": "its LoRA has random weights"}
    name = BASE.key if mini or rung.scheduler == BASE.scheduler else rung.scheduler
    files = [folder / PICTURES / f"{each}.png" for each in (rung.key, name)]
    if rung == BASE or not all(file.exists() for file in files):
        return {"psnr": None, "ssim": None, "no_distance": "is the picture compared with"}
    picture, reference = (Image.open(file) for file in files)
    ratio = psnr(picture, reference)
    return {
        "psnr": round(ratio, 1) if math.isfinite(ratio) else None,
        "ssim": round(ssim(picture, reference), 4),
    }


def lines_of(figures: Figures) -> list[str]:
    """A line per rung, for the person."""
    rows = [HEAD, *(cells(figures[rung.key]) for rung in RUNGS)]
    widths = [max(len(row[i]) for row in rows if len(row) > 2) for i in range(len(HEAD))]
    lines = []
    for row in rows:
        sized = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join([row[0].ljust(widths[0]), *sized]).rstrip())
    return lines
