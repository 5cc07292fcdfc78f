"""What the configurations of methods that learn from pictures with captions share."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from training.config.captions import IDENTIFIED_AS_CAPTIONS, CaptionConfig
from training.config.groups import key
from training.config.run import RunConfig, Sampling


class CaptionedRunConfig(RunConfig, CaptionConfig):
    """A run whose pictures have captions, with the defaults of diffusers' text-to-image scripts."""

    identified_by_content: ClassVar[dict[str, str]] = {
        **RunConfig.identified_by_content,
        **IDENTIFIED_AS_CAPTIONS,
    }

    train_data_dir: Path = key("data", ..., "Folder with the pictures and their captions.")
    repeats: int = key("data", 1, "Times the pictures are seen in one epoch.", ge=1)
    center_crop: bool = key(
        "data",
        True,
        "Crop the central square (pictures are encoded once, so the crop is never a random one); "
        "--center_crop=false squeezes the whole picture into the square.",
    )
    random_flip: bool = key("data", False, "Learn from mirror images, too, half of the time.")
    max_grad_norm: float | None = key(
        "training", 1.0, "Clip the gradient's norm to this; 'none' does not.", gt=0
    )

    @property
    def captions(self) -> CaptionConfig:
        """The captions' keys."""
        return self.group(CaptionConfig)

    @property
    def sampling(self) -> Sampling:
        """As the keys of the same names say."""
        return Sampling(mirror=self.random_flip, empty_prompts=self.proportion_empty_prompts)
