"""The tools that accelerate logs to: TensorBoard, Weights & Biases, Comet."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from training.errors import UserError, first_line

TAG = "validation"
"""As diffusers' script calls them."""


def refuse_missing_tracker(report_to: str) -> None:
    """Make sure that the tracker's package is there: accelerate says nothing where it is not.

    Raises:
        UserError: it is not installed.
    """
    if report_to not in ("all", "none") and importlib.util.find_spec(report_to) is None:
        raise UserError(
            f"report_to {report_to}: the package is not installed in this environment. "
            f"Install it, or use --report_to tensorboard or none."
        )


def start_trackers(
    accelerator: Accelerator, report_to: str, project: str, hyperparameters: dict[str, Any]
) -> None:
    """Start accelerate's trackers.

    Args:
        project: the name under which they file the run.
        hyperparameters: shown with it; those that are no numbers as text.

    Raises:
        UserError: a tracker cannot be started.
    """
    simple = {k: v if isinstance(v, int | float) else str(v) for k, v in hyperparameters.items()}
    try:
        accelerator.init_trackers(project, simple)
    except Exception as error:  # the tools raise what they like where nobody is logged in
        raise UserError(
            f"report_to {report_to}: cannot be started ({first_line(error)}). "
            "Log in to it, or use --report_to tensorboard or none."
        ) from error


def log_pictures(
    trackers: Sequence[Any], step: int, drawn: Sequence[tuple[str, Image.Image]]
) -> None:
    """Log validation pictures with their prompts as captions, under `validation`.

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
