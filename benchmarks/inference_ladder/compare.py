"""How far one picture is from another: PSNR and SSIM."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

PEAK = 255.0


def psnr(picture: Image.Image, reference: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures."""
    difference = _floats(picture, "RGB") - _floats(reference, "RGB")
    error = float((difference**2).mean())
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(picture: Image.Image, reference: Image.Image) -> float:
    """Structural similarity of brightness, 1 for equal pictures.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity" (2004): a Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    x, y = _floats(picture, "L"), _floats(reference, "L")

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        blurred: NDArray[Any] = gaussian_filter(values, 1.5, truncate=3.5)
        return blurred

    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similar = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(similar.mean())


def _floats(picture: Image.Image, mode: str) -> NDArray[Any]:
    return np.asarray(picture.convert(mode)).astype(np.float64)
