"""The denoiser: a UNet over 8 x 8 latents that listens to the caption at every level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from training.miniature.networks.loop import Schedule, train
from training.miniature.networks.text_encoder import WIDTH, PlaceholderRows, read
from training.miniature.networks.vae import LATENT_CHANNELS, PICTURE_SIZE
from training.miniature.scenes.dataset import Corpus

CAPTION_DROPOUT = 0.1


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet of two levels with cross-attention at both and in the middle."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=PICTURE_SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(88, 104),
        layers_per_block=1,
        # Diffusers takes this for the number of heads.
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )
    # An output that starts at zero saves the steps of unlearning a random one.
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def new_scheduler() -> DDIMScheduler:
    """The noise schedule: v-prediction over linear betas, which any fast sampler can follow.

    Pictures of flat colours show through much noise, so the betas are those that destroy
    early; else the colour would be settled in the very first steps of a drawing.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def draw_steps(batch: int, generator: torch.Generator) -> Tensor:
    """Noise steps to learn at, int64 [batch] in 0..999.

    Half of them are drawn from the noise levels at which a shape takes form, which is what
    is learnt last; the rest from all levels.
    """
    share = torch.rand(batch, generator=generator)
    formative = torch.rand(batch, generator=generator) < 0.5
    return (1000 * torch.where(formative, 0.3 + 0.6 * share, share)).long()


def train_unet(
    unet: UNet2DConditionModel,
    latents: Tensor,
    corpus: Corpus,
    validation: tuple[Tensor, Corpus],
    text_encoder: CLIPTextModel,
    rows: PlaceholderRows,
    empty: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    draw: Callable[[int, UNet2DConditionModel], None] | None = None,
) -> UNet2DConditionModel:
    """Train a UNet, in place, on scaled latents, float32 [n, 12, 8, 8], with the corpus's captions.

    `empty` holds the token ids of the empty caption, int64 [length], shown in place of a
    tenth of the captions. `draw(step, unet)` is called with the averaged weights at reports.
    """
    # The channels of a place lie together: 1.3 times as fast on a CPU as one plane a channel.
    unet.to(device, memory_format=torch.channels_last)
    latents = latents.to(device)
    corpus = corpus.to(device)
    empty = empty.to(device)
    scheduler = new_scheduler()

    def denoising_loss(pictures: Tensor, ids: Tensor, looks: Tensor, steps_at: Tensor) -> Tensor:
        noise = torch.randn_like(pictures)
        with torch.no_grad():
            hidden = read(text_encoder, ids, rows, looks)
        noisy = scheduler.add_noise(pictures, noise, steps_at)
        target = scheduler.get_velocity(pictures, noise, steps_at)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            guess = unet(noisy, steps_at, hidden).sample.float()
        # The plain loss of v already weighs every noise level alike; a min-SNR weight would
        # silence the noisiest, where shape and colour are decided.
        return F.mse_loss(guess, target)

    def loss_of(generator: torch.Generator) -> Tensor:
        scenes, captions = (rows.to(device) for rows in corpus.draw(batch, generator))
        untold = (torch.rand(batch, 1, generator=generator) < CAPTION_DROPOUT).to(device)
        ids = torch.where(untold, empty, corpus.ids[scenes, captions])
        steps_at = draw_steps(batch, generator).to(device)
        return denoising_loss(latents[scenes], ids, corpus.looks[scenes], steps_at)

    def report(step: int, network: nn.Module) -> str:
        torch.manual_seed(7)
        pictures, told = validation
        steps_at = torch.linspace(0, 999, len(pictures)).long().to(device)
        losses = denoising_loss(
            pictures.to(device), told.ids[:, 0].to(device), told.looks.to(device), steps_at
        )
        if draw is not None:
            draw(step, unet)
        return f"validation {float(losses):.4f}"

    schedule = Schedule(steps=steps, learning_rate=learning_rate, warmup=300, ema_decay=0.9995)
    train(
        "unet",
        unet,
        loss_of,
        schedule,
        batch=batch,
        seed=2,
        checkpoint=checkpoint,
        resume=resume,
        report=report,
    )
    return unet
