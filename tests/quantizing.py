"""The command line of a short run of training.quantize on a tiny model."""

from __future__ import annotations

from pathlib import Path

from tests.short_run import short_run

FILE = "quantized_unet.safetensors"


def short_quantize(
    model: Path, pictures: Path, latents: Path, output: Path, **changes: object
) -> list[str]:
    """Six steps; keyword arguments add and replace, None leaves out."""
    no_word = {"placeholder_token": None, "initializer_token": None}
    own = {"calibration_samples": 4, "learning_rate": 1e-3, "num_evaluation_samples": 2}
    return short_run(model, pictures, latents, output, **{**no_word, **own, **changes})
