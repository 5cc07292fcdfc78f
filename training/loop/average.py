"""The exponential moving average of what is trained (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from training.method import Values


class Average:
    """Follows parameters, in memory.

    Args:
        parameters: what is followed, by name; the average starts from their values.
        decay: share of the average that a step leaves as it was, once the run is old enough.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Values, step: int) -> None:
        """Take in the parameters as they are after optimizer step `step` (from 0).

        The first steps weigh more, as in diffusers' EMAModel: the average must forget its start.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach(), 1 - decay)
