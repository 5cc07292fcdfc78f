"""The last stage: the decoder alone learns to make clean pictures of the UNet's own latents.

What a UNet draws is never quite a latent that the encoder would have given, and a decoder that
has seen none but those turns the difference into smears. Here it sees latents that the finished
model drew from captions, and beside them the picture that was meant: the scene's parts, placed
and sized as they best fit what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from training.miniature.check import draw_latents
from training.miniature.networks.loop import Schedule, say, train
from training.miniature.networks.vae import as_tensor, decode, psnr, reconstruction_loss
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.scene import Scene, render_all
from training.miniature.scenes.sharpness import nearest_scenes

LEAST_OVERLAP = 0.7
"""A drawing that overlaps less with what was asked shows something else, and is left out."""

GUIDANCE = 3.0
"""Stronger than pictures are drawn with, which makes latents that are further from true ones."""

NOISE = 0.15
"""Most noise on an encoder's latents, as a share of their spread."""


@dataclass(frozen=True)
class Pairs:
    """Scaled latents, float32 [n, 12, 8, 8], and their pictures, uint8 [n, 64, 64, 3]."""

    latents: Tensor
    pictures: NDArray[np.uint8]


def drawn_pairs(pipeline: StableDiffusionPipeline, scenes: list[Scene]) -> Pairs:
    """Have the pipeline draw the scenes' captions; the pictures are the nearest true scenes'."""
    captions = [full_caption(scene) for scene in scenes]
    latents = draw_latents(pipeline, captions, seed=5, guidance_scale=GUIDANCE, batch=250).cpu()
    fits = nearest_scenes(decode(pipeline.vae, latents), scenes)
    kept = [index for index, (overlap, _) in enumerate(fits) if overlap >= LEAST_OVERLAP]
    say(f"decoder: {len(kept)} of {len(scenes)} drawings show what was asked")
    return Pairs(latents[kept], render_all([fits[index][1] for index in kept]))


def refine_decoder(
    vae: AutoencoderKL,
    encoded: Pairs,
    drawn: Pairs,
    validation: NDArray[np.uint8],
    *,
    steps: int,
    batch: int,
    learning_rate: float = 7e-4,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> AutoencoderKL:
    """Train the decoder, half on drawn latents and half on encoded ones with a little noise.

    The encoder stays what it is, so the UNet needs no more training.
    """
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    held_out = as_tensor(validation, vae.device)

    # A model at its very beginning has drawn nothing that could be learned from.
    sources = [(encoded, NOISE)] + [(drawn, 0.0)] * (len(drawn.latents) > 0)

    def loss_of(generator: torch.Generator) -> Tensor:
        latents, pictures = [], []
        for pairs, noise in sources:
            count = batch // len(sources)
            rows = torch.randint(len(pairs.latents), (count,), generator=generator)
            spread = noise * torch.rand(count, 1, 1, 1)
            latents.append(pairs.latents[rows] + spread * torch.randn_like(pairs.latents[rows]))
            pictures.append(as_tensor(pairs.pictures[rows.numpy()], vae.device))
        scaled = torch.cat(latents).to(vae.device) / vae.config.scaling_factor
        return reconstruction_loss(vae.decode(scaled).sample, torch.cat(pictures))

    def report(step: int, network: nn.Module) -> str:
        return f"{psnr(vae, held_out):.2f} dB"

    train(
        "decoder",
        vae,
        loss_of,
        Schedule(steps=steps, learning_rate=learning_rate, ema_decay=0.998),
        batch=batch,
        seed=4,
        checkpoint=checkpoint,
        resume=resume,
        report=report,
    )
    return vae
