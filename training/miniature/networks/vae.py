"""The autoencoder between 64 x 64 pictures and 8 x 8 latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from numpy.typing import NDArray
from torch import Tensor, nn

from training.miniature.networks.loop import Schedule, train

PICTURE_SIZE, LATENT_CHANNELS = 64, 12


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder, 8x smaller per side; its scaling_factor is not yet measured."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # More groups would take the mean colour out of a flat picture channel by channel.
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=PICTURE_SIZE,
    )
    _start_simple(vae)
    return vae


@torch.no_grad()
def _start_simple(vae: AutoencoderKL) -> None:
    # Residual branches start silent and the scaling convolutions as plain averaging and
    # copying: the untrained network already passes colours on, which saves most of the time
    # that a random start takes to find out that there are any.
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, Upsample2D):
            nn.init.dirac_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
        elif isinstance(module, Downsample2D):
            nn.init.zeros_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
            channels = torch.arange(module.conv.weight.shape[0])
            module.conv.weight[channels, channels, :2, :2] = 0.25
    # Latents that start with a variance of one would drown the picture for many steps.
    nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], -5.0)


def as_tensor(pictures: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Pictures uint8 [n, h, w, 3] as float32 [n, 3, h, w] in -1..1."""
    floats = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return floats.contiguous(memory_format=torch.channels_last)


def train_vae(
    pictures: NDArray[np.uint8],
    validation: NDArray[np.uint8],
    *,
    steps: int,
    batch: int,
    learning_rate: float = 1.5e-3,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
) -> AutoencoderKL:
    """Train an autoencoder on pictures, uint8 [n, 64, 64, 3], and set its scaling_factor."""
    torch.manual_seed(0)
    # Convolutions of few channels are a fifth faster on a CPU when the channels lie together.
    vae = new_vae().to(device, memory_format=torch.channels_last)
    held_out = as_tensor(validation, device)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (batch,), generator=generator).numpy()
        target = as_tensor(pictures[rows], device)
        posterior = vae.encode(target).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        # A tiny KL keeps the latents near one scale; more of it would blur the edges.
        spread = posterior.mean.square() + posterior.var - 1.0 - posterior.logvar
        return reconstruction_loss(decoded, target) + 1e-4 * 0.5 * spread.mean()

    def report(step: int, network: nn.Module) -> str:
        return f"{psnr(vae, held_out):.2f} dB"

    train(
        "autoencoder",
        vae,
        loss_of,
        Schedule(steps=steps, learning_rate=learning_rate, ema_decay=0.998),
        batch=batch,
        checkpoint=checkpoint,
        resume=resume,
        report=report,
    )
    latents = encode(vae, pictures[:4096])
    vae.register_to_config(scaling_factor=float(1.0 / latents.std()))
    return vae


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """L1 of the colours, of their steps between neighbours (the edges), and a squared part."""
    error = decoded - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 0.5 * edges + 0.5 * error.square().mean()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of decoded against given pictures [n, 3, h, w], -1..1."""
    decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10.0 * torch.log10(4.0 / (decoded - pictures).square().mean()))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 128) -> Tensor:
    """Unscaled latent means, float32 [n, 12, 8, 8] on the CPU, of pictures uint8 [n, 64, 64, 3]."""
    vae.eval()
    parts = [
        vae.encode(as_tensor(pictures[i : i + batch], vae.device)).latent_dist.mode().cpu()
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 128) -> NDArray[np.uint8]:
    """Pictures, uint8 [n, 64, 64, 3], of scaled latents, float32 [n, 12, 8, 8]."""
    parts = [
        vae.decode(latents[i : i + batch].to(vae.device) / vae.config.scaling_factor).sample
        for i in range(0, len(latents), batch)
    ]
    pixels = (torch.cat(parts).clamp(-1, 1) + 1.0) * 127.5
    return pixels.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
