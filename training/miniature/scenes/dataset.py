"""Scenes with their captions as the arrays the text encoder and the UNet learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from training.miniature.scenes.captions import PLACEHOLDER, Caption, describe
from training.miniature.scenes.scene import COLORS, POSITIONS, Scene
from training.miniature.scenes.shapes import SHAPES

CLASSES: dict[str, tuple[str, ...]] = {
    "shape": (*SHAPES, "open"),
    "color": (*COLORS, "open"),
    "hat": (*COLORS, "none", "some", "open"),
    "background": (*COLORS, "open"),
    "position": (*POSITIONS, "open"),
}
"""What a caption can say about each attribute; "open" when it says nothing."""


@dataclass(frozen=True)
class Corpus:
    """Tokenised captions of scenes, several a scene.

    ids: int64 [scenes, captions, length]. said: int64 [scenes, captions, attributes], rows of
    `CLASSES`. looks: int64 [scenes, 3], the scene's true shape, colour and hat.
    """

    ids: Tensor
    said: Tensor
    looks: Tensor

    def to(self, device: str) -> Corpus:
        """The same on a device."""
        return Corpus(self.ids.to(device), self.said.to(device), self.looks.to(device))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices of `batch` random scenes and of one caption for each, int64 [batch]."""
        scenes = torch.randint(self.ids.shape[0], (batch,), generator=generator)
        return scenes, torch.randint(self.ids.shape[1], (batch,), generator=generator)


def new_corpus(
    scenes: list[Scene], tokenizer: CLIPTokenizer, *, captions: int = 4, seed: int = 0
) -> Corpus:
    """Describe every scene `captions` times over; the same seed gives the same words."""
    generator = np.random.default_rng(seed)
    told = [describe(scene, generator) for scene in scenes for _ in range(captions)]
    ids = tokenize(tokenizer, [caption.text for caption in told])
    said = torch.tensor([_said(caption) for caption in told])
    looks = torch.tensor(
        [
            [
                CLASSES["shape"].index(scene.shape),
                CLASSES["color"].index(scene.color),
                CLASSES["hat"].index(scene.hat or "none"),
            ]
            for scene in scenes
        ]
    )
    shape = (len(scenes), captions, -1)
    return Corpus(ids.reshape(shape), said.reshape(shape), looks)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids int64 [len(texts), model_max_length], padded and cut to length."""
    parts = [
        tokenizer(
            texts[i : i + 8192], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        for i in range(0, len(texts), 8192)
    ]
    return torch.cat(parts)


def placeholder_id(tokenizer: CLIPTokenizer) -> int:
    """Token id of the placeholder."""
    return int(tokenizer.convert_tokens_to_ids(f"{PLACEHOLDER}</w>"))


def _said(caption: Caption) -> list[int]:
    return [
        classes.index(getattr(caption, attribute) or "open")
        for attribute, classes in CLASSES.items()
    ]
