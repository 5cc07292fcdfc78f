"""One picture from a pipeline with diffusers' arguments: torch's, or optimum-intel's."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from training.inference.engines import OnStep
from training.inference.settings import Settings


def call_pipeline(
    pipeline: Any, settings: Settings, seed: int, on_step: OnStep, text: dict[str, Any]
) -> Image.Image:
    """Draw one picture.

    Args:
        on_step: called with the number of denoising steps done, after each.
        text: the pipeline's arguments for what to draw: prompts, or their embeddings.
    """

    def stepped(_: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1)
        return values

    result = pipeline(
        **text,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=stepped,
    )
    picture: Image.Image = result.images[0]
    return picture
