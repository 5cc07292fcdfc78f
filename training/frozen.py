"""The frozen UNet, VAE and text encoder, prepared for the CPU they run on."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch

from training.models import Models
from training.stack import Optimize, Stack

ROUNDS = 3


def choose(requested: str, stack: Stack, models: Models, dtype: torch.dtype, side: int) -> str:
    """ "native" or "ipex": what is asked for, or, if "auto", the faster of the two here.

    On the upstream stack there is nothing to measure. On the intel stack a forward and
    backward pass of the UNet is timed both ways, interleaved, at the run's own size.

    Args:
        side: height and width of the latents.
    """
    if requested != "auto":
        return requested
    if stack.optimize is None:
        return "native"
    optimized = prepare_module(copy.deepcopy(models.unet), stack.optimize, dtype)
    native = prepare_module(copy.deepcopy(models.unet), None, dtype)
    seconds = compare(
        {
            name: _unet_pass(unet, dtype, side)
            for name, unet in (("native", native), ("ipex", optimized))
        }
    )
    return min(seconds, key=seconds.__getitem__)


def prepare_module(
    module: torch.nn.Module, optimize: Optimize | None, dtype: torch.dtype
) -> torch.nn.Module:
    """Freeze `module` and bring it to `dtype`, as it is or through `ipex.optimize`."""
    frozen = module.requires_grad_(False).eval()
    if optimize is not None:
        return optimize(frozen, dtype).requires_grad_(False)
    return frozen.to(dtype)


def prepare(models: Models, how: str, stack: Stack, dtype: torch.dtype) -> Models:
    """The same models with UNet, VAE and text encoder frozen and prepared.

    The text encoder stays in float32 where it is native (its cost is below a hundredth of the
    UNet's, and the rows' gradient passes through it).

    Args:
        how: "native" or "ipex".
    """
    optimize = stack.optimize if how == "ipex" else None
    return Models(
        tokenizer=models.tokenizer,
        noise_scheduler=models.noise_scheduler,
        text_encoder=prepare_module(
            models.text_encoder, optimize, dtype if optimize else torch.float32
        ),
        vae=prepare_module(models.vae, optimize, dtype),
        unet=prepare_module(models.unet, optimize, dtype),
    )


def compare(passes: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each pass over `ROUNDS` interleaved rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(ROUNDS + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _unet_pass(unet: torch.nn.Module, dtype: torch.dtype, side: int) -> Callable[[], object]:
    config = unet.config
    latents = torch.randn(1, config.in_channels, side, side, dtype=dtype)  # type: ignore
    text = torch.randn(1, 77, config.cross_attention_dim, dtype=dtype)  # type: ignore

    def run() -> object:
        hidden = text.clone().requires_grad_()
        sample = unet(latents, torch.tensor([500]), encoder_hidden_states=hidden).sample
        sample.float().square().mean().backward()
        return hidden.grad

    return run
