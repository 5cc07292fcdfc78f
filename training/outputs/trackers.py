"""Validation pictures in the tools that accelerate logs to, under `validation`, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

TAG = "validation"
"""As diffusers' script calls them."""


def log_pictures(
    trackers: Sequence[Any], step: int, drawn: Sequence[tuple[str, Image.Image]]
) -> None:
    """Hand pictures to TensorBoard, Weights & Biases and Comet.

    Args:
        trackers: accelerate's.
        drawn: the prompt and the picture of each, all of one size.
    """
    captions = [f"{number}: {prompt}" for number, (prompt, _) in enumerate(drawn)]
    pictures = [picture for _, picture in drawn]
    for tracker in trackers:
        if tracker.name == "tensorboard":
            images = np.stack([np.asarray(picture) for picture in pictures])
            tracker.writer.add_images(TAG, images, step, dataformats="NHWC")
            tracker.writer.add_text(TAG, "\n\n".join(captions), step)  # pictures have none there
        elif tracker.name == "wandb":
            import wandb

            shown = [
                wandb.Image(picture, caption=caption)
                for picture, caption in zip(pictures, captions, strict=True)
            ]
            tracker.log({TAG: shown}, step=step)
        elif tracker.name == "comet_ml":
            for picture, caption in zip(pictures, captions, strict=True):
                tracker.writer.log_image(picture, name=f"{TAG} {caption}", step=step)
