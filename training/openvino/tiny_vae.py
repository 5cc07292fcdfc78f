"""AutoencoderTiny as optimum-intel converts it, which knows AutoencoderKL alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

NO_SPREAD = -30.0
"""Logarithm of the variance of latents that are certain, the least that AutoencoderKL allows."""


class _AsKL(AutoencoderTiny):
    """The same weights, called as AutoencoderKL is."""

    def encode(self, x: Tensor) -> Any:
        """The mean and the logarithm of the variance, float32 [B, 2 C, H / 8, W / 8]."""
        mean: Tensor = super().encode(x, return_dict=False)[0]
        spread = torch.full_like(mean, NO_SPREAD)
        return {"latent_dist": SimpleNamespace(parameters=torch.cat([mean, spread], dim=1))}

    def decode(self, z: Tensor) -> Any:
        """Pictures, -1..1."""
        return super().decode(z)


def make_exportable(vae: Any) -> None:
    """Let optimum-intel convert a VAE; in place. An AutoencoderKL stays as it is."""
    if isinstance(vae, AutoencoderTiny):
        vae.__class__ = _AsKL
        # Read by optimum-intel, to know how much smaller latents are than pictures.
        blocks = len(vae.config.encoder_block_out_channels)
        vae.register_to_config(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
        )
