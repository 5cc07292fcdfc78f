"""The model that is trained: random weights in the shapes of Stable Diffusion 1.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.tiny_model import make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "models" / "files" / "stable_diffusion_1"


def make_model(folder: Path) -> None:
    """Write a pipeline of Stable Diffusion 1.5's shapes with random weights, in bf16."""
    torch.manual_seed(0)

    def config(model: type[Any], part: str) -> Any:
        return model.from_config(model.load_config(str(CONFIGS / part)))

    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder"))
    StableDiffusionPipeline(
        vae=config(AutoencoderKL, "vae").to(torch.bfloat16),
        text_encoder=text_encoder.to(torch.bfloat16),
        tokenizer=make_tokenizer(folder / "tokenizer"),
        unet=config(UNet2DConditionModel, "unet").to(torch.bfloat16),
        scheduler=config(DDIMScheduler, "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
