"""A Stable Diffusion pipeline with random weights, small enough to train in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = [
    *("a", "photo", "of", "the", "toy", "cat", "dog", "red"),
    *("in", "style", "painting", "rendering"),
]
MAX_LENGTH = 24


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level tokenizer in which each of `WORDS` is one token."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(character + "</w>" for character in alphabet)]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = " ".join(parts[:2])
            if merge not in merges:
                merges.append(merge)
            parts = ["".join(parts[:2]), *parts[2:]]
            if parts[0] not in tokens:
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)


def make_tiny_model(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Write the pipeline to `folder`; the same weights every time."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    last = len(tokenizer) - 1
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=last - 1,
            eos_token_id=last,
            pad_token_id=last,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def make_kohya_lora(path: Path, unet: Any, width: int | None = None, rank: int = 2) -> Path:
    """Write a LoRA of the UNet's cross-attention in kohya's layout, as LCM-LoRA has it.

    Args:
        width: of what its layers take, to make one that does not fit.
    """
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(2)
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            out, into = module.weight.shape
            key = f"lora_unet_{name.replace('.', '_')}"
            down = torch.randn(rank, width or into, generator=generator)
            tensors[f"{key}.lora_down.weight"] = down
            tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
            tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return path


def make_pictures(folder: Path, count: int = 5) -> Path:
    """Write `count` PNGs of noise; the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
