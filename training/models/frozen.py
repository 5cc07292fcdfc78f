"""The frozen UNet, VAE and text encoder, prepared for the CPU they run on."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from training.errors import UserError
from training.machine.stack import Optimize, Stack
from training.models.loading import Models

ROUNDS = 3


def choose(requested: str, stack: Stack, models: Models, dtype: torch.dtype, side: int) -> str:
    """What is asked for, or, if "auto", the faster of "native" and "ipex" here.

    On the upstream stack there is nothing to measure. On the intel stack a forward and
    backward pass of the UNet is timed both ways, interleaved, at the run's own size.

    Args:
        side: height and width of the latents.
    """
    if requested != "auto":
        return requested
    if stack.optimize is None:
        return "native"
    try:
        optimized = stack.optimize(copy.deepcopy(models.unet), dtype, True)
    except UserError:
        return "native"
    native = copy.deepcopy(models.unet).requires_grad_(False).eval().to(dtype)
    seconds = compare(
        {
            name: _unet_pass(unet, dtype, side)
            for name, unet in (("native", native), ("ipex", optimized))
        }
    )
    return min(seconds, key=seconds.__getitem__)


def loading_dtype(requested: str, stack: Stack, dtype: torch.dtype) -> torch.dtype:
    """What VAE and UNet are best read in: at once as they are frozen, which saves memory.

    `ipex.optimize` is given float32, from which it makes what it needs.
    """
    perhaps_ipex = requested == "ipex" or (requested == "auto" and stack.optimize is not None)
    return torch.float32 if perhaps_ipex else dtype


def prepare(models: Models, how: str, stack: Stack, dtype: torch.dtype) -> Models:
    """The same models with UNet, VAE and text encoder frozen and prepared.

    Of a native text encoder only those weights leave float32 that autocast rounds anyway.

    Args:
        how: "native", "ipex" or "compiled", which is native as far as the models go: the code
            that computes the training step takes their weights (`training.loop.compiled`).

    Raises:
        UserError: IPEX is not there, or cannot prepare the UNet or the text encoder.
    """
    if how in ("native", "compiled"):
        for module in (models.text_encoder, models.vae, models.unet):
            module.requires_grad_(False).eval()
        if dtype == torch.bfloat16:
            _round_text_weights(models.text_encoder)
        models.vae.to(dtype)
        models.unet.to(dtype)
        return models
    if stack.optimize is None:
        raise UserError(
            "--frozen ipex: this environment has no intel_extension_for_pytorch. "
            "Use --frozen native, or the environment of requirements/intel.txt."
        )
    return Models(
        tokenizer=models.tokenizer,
        noise_scheduler=models.noise_scheduler,
        text_encoder=stack.optimize(models.text_encoder, dtype, True),
        vae=_prepared_vae(models.vae, stack.optimize, dtype),
        unet=stack.optimize(models.unet, dtype, True),
    )


def _round_text_weights(text_encoder: torch.nn.Module) -> None:
    """Round the linear layers' weights once, as autocast would at each call.

    What it rounded would be kept for the backward pass beside them.
    """
    for module in text_encoder.modules():
        if type(module) is torch.nn.Linear:
            module.to(torch.bfloat16)


def release(module: torch.nn.Module) -> None:
    """Let the memory of a module's weights go, once nothing computes with it any more.

    Its configuration stays readable. IPEX's packed weights are not weights that could go.
    """
    module.to("meta")


def _prepared_vae(vae: Any, optimize: Optimize, dtype: torch.dtype) -> Any:
    """It encodes each picture once: where IPEX does not know its kind, it stays as it is."""
    try:
        return optimize(vae, dtype, False)
    except UserError:
        return vae.requires_grad_(False).eval().to(dtype)


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
