"""The inference ladder: distances of pictures, figures, and what each rung is started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.inference_ladder import process
from benchmarks.inference_ladder.compare import psnr, ssim
from benchmarks.inference_ladder.figures import figures_of, lines_of
from benchmarks.inference_ladder.measure import PICTURES, system, why_not
from benchmarks.inference_ladder.rungs import (
    BASE,
    DPM,
    IPEX,
    JEMALLOC,
    LCM,
    RUNGS,
    STATIC,
    SYSTEM,
    TINY,
    Rung,
)  # fmt: skip


def noise(seed: int, spread: float = 60) -> Image.Image:
    values = np.random.default_rng(seed).normal(128, spread, (64, 64, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def test_distances_of_pictures() -> None:
    black, gray = (Image.new("RGB", (64, 64), (level,) * 3) for level in (0, 16))
    assert psnr(black, gray) == pytest.approx(10 * np.log10(255**2 / 16**2))
    assert psnr(black, black) == np.inf
    assert ssim(noise(0), noise(0)) == pytest.approx(1)
    assert abs(ssim(noise(0), noise(1))) < 0.1
    # Of flat pictures the brightness alone is left (Wang et al. 2004, equation 6).
    c1 = (0.01 * 255) ** 2
    assert ssim(black, gray) == pytest.approx(c1 / (16**2 + c1))


def found(rung: str, seconds: list[float], **changes: Any) -> dict[str, Any]:
    one = {"rung": rung, "seconds": seconds, "cpu_seconds": seconds, "step_seconds": 1.0,
           "first_seconds": 9.0, "peak_bytes": 2e9, "weights_bytes": 1e9, "torch": "2",
           "preloaded": []}  # fmt: skip
    return one | changes


def test_every_rung_has_its_ratio_or_a_reason(tmp_path: Path) -> None:
    (tmp_path / PICTURES).mkdir()
    for name, picture in ((BASE.key, noise(0)), ("dpmpp_2m", noise(1)), (STATIC.key, noise(1))):
        picture.save(tmp_path / PICTURES / f"{name}.png")
    measured = [
        found(BASE.key, [30.0]),
        found(STATIC.key, [16.0, 15.0]),
        found(BASE.key, [20.0, 40.0], peak_bytes=3e9),
        found(LCM.key, [2.0]),
        {"rung": IPEX.key, "reason": "no IPEX"},
    ]
    figures = figures_of(measured, tmp_path, mini=False, steps=3)
    assert {rung.key for rung in RUNGS} <= figures.keys()
    assert (figures[BASE.key]["ratio"], figures[BASE.key]["peak_gb"]) == (1, 3)
    assert figures[STATIC.key]["ratio"] == round(30 / 15.5, 2)
    # Compared with fp32's picture of the same scheduler.
    assert (figures[STATIC.key]["psnr"], figures[STATIC.key]["ssim"]) == (None, 1)
    assert figures[LCM.key]["no_distance"] == "its LoRA has random weights"
    assert figures[IPEX.key] == {"title": IPEX.title, "ratio": None, "reason": "no IPEX"}
    assert figures[TINY.key]["reason"] == "was not asked for"
    assert "1.94" in next(line for line in lines_of(figures) if line.startswith(STATIC.title))
    assert json.dumps(figures, allow_nan=False)  # what `finish` writes is JSON proper


def test_what_cannot_be_measured_here_is_said() -> None:
    assert "make environment-intel" in why_not(IPEX, False, Path("nowhere"))
    assert "zero signal" in why_not(DPM, True, Path("nowhere"))
    assert why_not(BASE, False, Path("nowhere")) == ""


@pytest.mark.parametrize("rung", [SYSTEM, JEMALLOC])
def test_a_rung_gets_the_allocator_that_it_is_named_after(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so")
    assert why_not(rung, False, Path("nowhere")) == ""
    assert system(rung)["LD_PRELOAD"].split(":")[0] == f"lib{rung.allocator}.so"
    assert system(BASE) == {}
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert why_not(rung, False, Path("nowhere")) == f"{rung.allocator} is not installed"


def test_a_rung_draws_and_says_what_it_took(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "model_of", lambda folder, mini: tiny_model)
    monkeypatch.setattr(process, "SIDE", {False: 32})
    (tmp_path / "lcm.safetensors").touch()
    words = [BASE.key, str(tmp_path), str(tmp_path / "out.json"), "--reference", "dpmpp_2m"]
    assert process.main([*words, "--pictures", "2"]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert len(figures["seconds"]) == len(figures["cpu_seconds"]) == 2
    # 3 steps are drawn, 17 are reckoned.
    assert min(figures["seconds"]) > 17 * figures["step_seconds"]
    assert figures["first_seconds"] > 18 * figures["step_seconds"]
    assert figures["weights_bytes"] < 4e6 < figures["peak_bytes"]
    drawn = [Image.open(tmp_path / name) for name in ("out.png", "dpmpp_2m.png")]
    assert [picture.size for picture in drawn] == [(32, 32)] * 2
    assert drawn[0].tobytes() != drawn[1].tobytes()
