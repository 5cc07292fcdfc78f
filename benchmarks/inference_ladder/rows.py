"""The ladder's rows as text, for the terminal and for docs/."""

from __future__ import annotations

from typing import Any

Figures = dict[str, Any]
HEAD = (
    "rung",
    "s/picture",
    "ratio",
    "CPU s",
    "s to first",
    "peak GB",
    "weights GB",
    "PSNR",
    "SSIM",
)


def cells(found: Figures) -> tuple[str, ...]:
    """A rung's row: its title and figures, or why there are none."""
    if found["ratio"] is None:
        return found["title"], f"not run: {found['reason']}"
    distance = (
        ("", "")
        if found["ssim"] is None
        else ("equal" if found["psnr"] is None else f"{found['psnr']:.1f}", f"{found['ssim']:.3f}")
    )
    return (
        found["title"],
        f"{found['seconds']:.2f}",
        f"{found['ratio']:.2f}",
        f"{found['cpu_seconds']:.1f}",
        f"{found['first_seconds']:.0f}",
        f"{found['peak_gb']:.2f}",
        f"{found['weights_gb']:.3f}",
        *distance,
    )
