"""The training step of diffusers' scripts, timed: what `benchmarks.train_step` compares with.

    python -m benchmarks.train_step.reference MODEL lora bf16 5 512

Each step encodes the picture with the VAE and the caption with the text encoder, as the scripts do.
For a word it trains the whole embedding table and restores all other rows (textual_inversion.py);
for a LoRA, PEFT's adapters of rank 4 under autocast (train_text_to_image_lora.py). `--ipex` adds,
for a word, what the reference cluster's run added to the script: `ipex.optimize` of UNet and VAE.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch
from peft import LoraConfig
from torch.nn import functional as F

from training.config.groups import ModelConfig
from training.machine import vector_math
from training.machine.stack import resolve_stack
from training.models.loading import Models, load_models, tokenize

LEARNING_RATE = 1e-4


def main(argv: Sequence[str] | None = None) -> int:
    """Time the steps; prints {"seconds": one for each, "peak_gb": of the process}."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step.reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    parser.add_argument("method", choices=("textual_inversion", "lora"))
    parser.add_argument("precision", choices=("no", "bf16"))
    parser.add_argument("steps", type=int)
    parser.add_argument("resolution", type=int)
    parser.add_argument("--ipex", action="store_true", help="a word only, bf16")
    chosen = parser.parse_args(argv)
    vector_math.resolve_kernels()
    models = load_models(ModelConfig(pretrained_model_name_or_path=chosen.model))
    for part in (models.vae, models.unet, models.text_encoder):
        part.requires_grad_(False)
    dtype = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
    prepare = {"textual_inversion": whole_table, "lora": adapters}[chosen.method]
    parameters, after = prepare(models, dtype)
    if chosen.ipex:
        optimize_with_ipex(models, dtype)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, chosen.resolution, chosen.resolution).to(dtype) * 2 - 1
    ids = tokenize(models.tokenizer, ["a photo of a toy"])
    seconds = []
    for _ in range(chosen.steps):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss_of(models, pixels, ids, dtype).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak}))
    return 0


def loss_of(
    models: Models, pixels: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The loss of one picture ([1, 3, H, W], in [-1, 1]) and one caption ([1, length])."""
    latents = models.vae.encode(pixels).latent_dist.sample() * models.vae.config.scaling_factor
    noise = torch.randn_like(latents)
    timesteps = torch.randint(1000, (1,))
    noisy = models.noise_scheduler.add_noise(latents, noise, timesteps)
    hidden = models.text_encoder(ids)[0].to(dtype)
    said = models.unet(noisy.to(dtype), timesteps, encoder_hidden_states=hidden).sample
    return F.mse_loss(said.float(), noise.float())


def optimize_with_ipex(models: Models, dtype: torch.dtype) -> None:
    """`unet = ipex.optimize(unet, dtype=weight_dtype)`, and the same for the VAE.

    Raises:
        UserError: IPEX does not import, or cannot prepare one of them on this CPU.
    """
    optimize = resolve_stack("intel").optimize
    assert optimize is not None
    models.unet = optimize(models.unet, dtype, False)
    models.vae = optimize(models.vae, dtype, False)


Prepared = tuple[list[torch.nn.Parameter], Callable[[], None]]


def whole_table(models: Models, dtype: torch.dtype) -> Prepared:
    """Train the embedding table; after each step every row but the last is restored."""
    models.vae.to(dtype)
    models.unet.to(dtype)
    table = models.text_encoder.get_input_embeddings().weight.requires_grad_()
    original = table.detach().clone()

    def restore() -> None:
        with torch.no_grad():
            table[:-1] = original[:-1]

    return [table], restore


def adapters(models: Models, dtype: torch.dtype) -> Prepared:
    """Train adapters of rank 4 on the UNet's attention, in float32."""
    for part in (models.vae, models.unet, models.text_encoder):
        part.to(dtype)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    models.unet.add_adapter(
        LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets)
    )
    trained = [weight for weight in models.unet.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    return trained, lambda: None


if __name__ == "__main__":
    sys.exit(main())
