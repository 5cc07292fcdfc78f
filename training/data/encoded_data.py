"""The encoded pictures and sentences of a run, and the batches that are drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.data.draws import Draw
from training.models.denoising import Batch


@dataclass(frozen=True)
class EncodedData:
    """What samples are made of.

    Attributes:
        posteriors: of each picture [2 (plain, mirrored), 2 (mean, deviation), C, H, W], from
            `training.data.latents`.
        token_ids: [prompts, length].
        text: [prompts, length, width], what the text encoder makes of them; None where that
            changes while it is trained.
    """

    posteriors: Sequence[torch.Tensor] | torch.Tensor
    token_ids: torch.Tensor
    text: torch.Tensor | None = None

    def batches(self, draws: list[Draw]) -> list[Batch]:
        """The samples that `draws` name, as tensors: a batch for each size of latents."""
        by_size: dict[torch.Size, list[Draw]] = {}
        for draw in draws:
            by_size.setdefault(draw.noise.shape, []).append(draw)
        return [self.batch(alike) for alike in by_size.values()]

    def batch(self, draws: list[Draw]) -> Batch:
        """Samples of one size, as tensors."""
        prompts = [d.prompt for d in draws]
        return Batch(
            moments=torch.stack([self.posteriors[d.picture][int(d.flip)] for d in draws]),
            posterior_noise=torch.stack([d.posterior_noise for d in draws]),
            noise=torch.stack([d.noise for d in draws]),
            timesteps=torch.tensor([d.timestep for d in draws]),
            token_ids=self.token_ids[prompts],
            text=None if self.text is None else self.text[prompts],
        )
