"""A tiny VAE for the miniature's latents: almost the same pictures from a sixth of the weights.

It is diffusers' AutoencoderTiny, as TAESD is for Stable Diffusion (github.com/madebyollin/taesd),
and it learns from the full VAE: its decoder to make the pictures that the full one makes of the
same latents, drawn ones and noised ones among them; its encoder to give the same latents.

    python -m training.miniature.tiny_vae
    python -m training.generate --model training/miniature/model \\
        --vae training/miniature/tiny_vae --prompt "a photo of a red circle"
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from training.atomic_files import write_directory
from training.machine import vector_math
from training.miniature.check import MODEL, SCENES_SEED, draw_latents, load_pipeline
from training.miniature.decoder import GUIDANCE
from training.miniature.judge import judge_pictures
from training.miniature.networks.loop import Schedule, console, train
from training.miniature.networks.vae import (
    LATENT_CHANNELS,
    as_tensor,
    decode,
    encode,
    reconstruction_loss,
)
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.scene import render_all, sample_scenes

FOLDER = Path(__file__).parent / "tiny_vae"
NOISE = 0.3
"""Most noise on an encoder's latents, as a share of their spread."""


def new_tiny_vae() -> AutoencoderTiny:
    """An untrained one; it takes latents as the UNet has them, so its scaling_factor is 1."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        decoder_block_out_channels=(24,) * 4,
        num_decoder_blocks=(3, 3, 3, 1),
    )


@dataclass(frozen=True)
class Lessons:
    """What it learns from.

    Attributes:
        scenes: pictures, uint8 [n, 64, 64, 3].
        encoded: the full encoder's scaled latents of them, float32 [n, 12, 8, 8].
        latents: of any kind, float32 [m, 12, 8, 8].
        decoded: the full decoder's pictures of these, uint8 [m, 64, 64, 3].
    """

    scenes: NDArray[np.uint8]
    encoded: Tensor
    latents: Tensor
    decoded: NDArray[np.uint8]


def lessons(pipeline: StableDiffusionPipeline, scenes: int, drawn: int) -> Lessons:
    """Encode `scenes` scenes, with noise on a copy; draw `drawn` captions; decode all of them."""
    vae = pipeline.vae
    rendered = render_all(sample_scenes(scenes, seed=21))
    encoded = encode(vae, rendered) * vae.config.scaling_factor
    generator = torch.Generator().manual_seed(22)
    spread = NOISE * torch.rand(scenes, 1, 1, 1, generator=generator)
    noised = encoded + spread * torch.randn(encoded.shape, generator=generator)
    captions = [full_caption(scene) for scene in sample_scenes(drawn, seed=23)]
    # Half with the guidance that pictures are drawn with, half with more.
    half = drawn // 2
    parts = [noised, draw_latents(pipeline, captions[:half], seed=6)]
    parts.append(draw_latents(pipeline, captions[half:], seed=7, guidance_scale=GUIDANCE))
    latents = torch.cat(parts)
    return Lessons(rendered, encoded, latents, decode(vae, latents))


def train_tiny_vae(taught: Lessons, *, steps: int, batch: int) -> AutoencoderTiny:
    """Train one: half of a batch are noised latents, half drawn ones."""
    torch.manual_seed(0)
    tiny = new_tiny_vae().to(memory_format=torch.channels_last)
    encoded = len(taught.encoded)

    def loss_of(generator: torch.Generator) -> Tensor:
        noised = torch.randint(encoded, (batch // 2,), generator=generator)
        drawn = torch.randint(encoded, len(taught.latents), (batch // 2,), generator=generator)
        rows = torch.cat([noised, drawn])
        picture = tiny.decode(taught.latents[rows]).sample
        loss = reconstruction_loss(picture, as_tensor(taught.decoded[rows.numpy()]))
        latents = tiny.encode(as_tensor(taught.scenes[noised.numpy()])).latents
        return loss + F.mse_loss(latents, taught.encoded[noised])

    def report(step: int, network: nn.Module) -> str:
        some = taught.latents[-64:]
        likeness = psnr_of(decode(tiny, some), taught.decoded[-64:])
        return f"{likeness:.2f} dB of the full decoder's"

    schedule = Schedule(steps=steps, learning_rate=2e-3, ema_decay=0.998)
    train("tiny VAE", tiny, loss_of, schedule, batch=batch, seed=6, report=report)
    return tiny


def psnr_of(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB between pictures, uint8 [n, h, w, 3]."""
    error = np.square(pictures.astype(np.float64) - others).mean()
    return float(10 * np.log10(255**2 / error))


@dataclass(frozen=True)
class Comparison:
    """Pictures of the same drawn latents by both decoders.

    Attributes:
        full, tiny: shares 0..1 in which the judge sees shape and colour as asked.
        likeness: PSNR in dB between them.
    """

    full: float
    tiny: float
    likeness: float


def compare(
    pipeline: StableDiffusionPipeline, tiny: AutoencoderTiny, captions: int = 100, seeds: int = 1
) -> Comparison:
    """Draw the check's captions once per seed; both decoders decode, and the judge looks.

    The captions and the seeds' noise are those of `training.miniature.check`.
    """
    scenes = sample_scenes(captions, SCENES_SEED) * seeds
    latents = draw_latents(pipeline, [full_caption(scene) for scene in scenes])

    def share(pictures: NDArray[np.uint8]) -> float:
        seen = judge_pictures([Image.fromarray(picture) for picture in pictures])
        right = [
            (v.shape, v.color) == (s.shape, s.color) for v, s in zip(seen, scenes, strict=True)
        ]
        return sum(right) / len(right)

    full, small = decode(pipeline.vae, latents), decode(tiny, latents)
    return Comparison(share(full), share(small), psnr_of(small, full))


def main() -> int:
    """Train, save in half precision, and compare with the full VAE; 1: it draws too badly."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.tiny_vae",
        description="Train a tiny VAE for the miniature model's latents, and count with the judge "
        "whether it draws as well as the full one. Takes about 20 minutes on a core.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="the pipeline whose VAE teaches")
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help="the tiny VAE's folder")
    parser.add_argument("--scenes", type=int, default=6000, help="scenes that it sees")
    parser.add_argument("--drawn", type=int, default=1500, help="pictures drawn for it")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32, help="latents per step")
    parser.add_argument(
        "--within", type=float, default=2.0, help="percent that it may be worse, else exit 1"
    )
    arguments = parser.parse_args()
    vector_math.resolve_kernels()
    pipeline = load_pipeline(arguments.model)
    taught = lessons(pipeline, arguments.scenes, arguments.drawn)
    tiny = train_tiny_vae(taught, steps=arguments.steps, batch=arguments.batch)
    tiny = tiny.to(memory_format=torch.contiguous_format).half()
    write_directory(arguments.output_dir, tiny.save_pretrained)
    saved = AutoencoderTiny.from_pretrained(arguments.output_dir, torch_dtype=torch.float32)
    found = compare(pipeline, saved, seeds=3)
    console.print(
        f"{arguments.output_dir}: shape and color as asked in {found.tiny:.1%} of 300 pictures, "
        f"with the full VAE in {found.full:.1%}; {found.likeness:.1f} dB between the two",
        markup=False,
    )
    return 0 if 100 * (found.full - found.tiny) <= arguments.within else 1


if __name__ == "__main__":
    sys.exit(main())
