"""What computes a run's attention and convolutions: decided when it starts, kept in its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from training.data.inputs import Inputs
from training.machine.attention import choice as attention
from training.machine.attention.library import ATTENTION
from training.machine.attention.processor import is_fused, use_fused
from training.machine.convolution import choice as convolution
from training.machine.convolution.layer import is_winograd, more_memory, use_winograd
from training.machine.convolution.library import CONVOLUTION
from training.machine.kernel_library import KernelLibrary
from training.ranks.launcher import Ranks
from training.ranks.process_group import every_rank
from training.storage.run_directory import RunRecord

Notify = Callable[[str], None]
TORCH = "torch"


@dataclass(frozen=True)
class Kernels:
    """What computes the UNet's self-attention and its convolutions, by the record's names."""

    attention: str = TORCH
    convolution: str = TORCH


def choose_kernels(inputs: Inputs, dtype: torch.dtype, ranks: Ranks, notify: Notify) -> Kernels:
    """Our own kernels where they suit every rank's processor, PyTorch's elsewhere."""
    config, unet, side = inputs.config, inputs.models.unet, inputs.latent_side

    def chosen(what: str, ours: str, requested: str, why_torch: str) -> str:
        reasons = [reason for reason in every_rank(why_torch, ranks) if reason]
        if not reasons:
            return ours
        if requested == ours:
            notify(f"--{what} {ours}: {reasons[0]}: PyTorch's {what} is used")
        return TORCH

    tokens, positions = attention.largest(unet, side), convolution.largest(unet, side)
    why_not_winograd = convolution.why_torch(config.convolution, positions, dtype, notify)
    if config.convolution == "auto" and not why_not_winograd:
        why_not_winograd = _why_too_large(unet, side, ranks)
        if why_not_winograd:
            notify(f"convolution: PyTorch's, as {why_not_winograd}")
    return Kernels(
        chosen(
            "attention", attention.FUSED, config.attention,
            attention.why_torch(config.attention, tokens, dtype, notify),
        ),
        chosen(
            "convolution", convolution.WINOGRAD, config.convolution, why_not_winograd,
        ),
    )  # fmt: skip


def usable_kernels(record: RunRecord, ranks: Ranks, notify: Notify) -> Kernels:
    """Those of a run's kernels that every rank's machine has, PyTorch's in the place of others."""
    return Kernels(
        _where_it_is(record.attention, attention.FUSED, ATTENTION, ranks, notify),
        _where_it_is(record.convolution, convolution.WINOGRAD, CONVOLUTION, ranks, notify),
    )


def use_kernels_to_encode(vae: Any, side: int, kernels: Kernels) -> None:
    """Let the convolution kernel compute a frozen VAE's encoder, if a run has it.

    Args:
        side: height and width of the pictures, in pixels.
    """
    if kernels.convolution == convolution.WINOGRAD:
        use_winograd(vae.encoder, side)


def forget_encoder(vae: Any, kernels: Kernels) -> None:
    """Let an encoder go that the kernel may compute: all is encoded, and drawing only decodes.

    The kernel's weights of it are four times the original ones.
    """
    if kernels.convolution == convolution.WINOGRAD:
        vae.encoder = None


def use_kernels(unet: Any, side: int, kernels: Kernels, notify: Notify) -> None:
    """Put a run's kernels into its frozen UNet.

    Args:
        side: height and width of the latents.
    """
    if kernels.attention == attention.FUSED:
        use_fused(unet)
        notify(f"attention: our own kernel (--attention {kernels.attention})")
    if kernels.convolution == convolution.WINOGRAD:
        count = use_winograd(unet, side)
        notify(f"convolution: our own kernel in {count} layers (--convolution winograd)")


def _why_too_large(unet: Any, side: int, ranks: Ranks) -> str:
    """Why this machine has too little memory for transformed weights; "": it has enough.

    A step is taken to need as much beside them as the UNet's weights.
    """
    more = more_memory(unet, side)
    beside = sum(value.nbytes for value in unet.parameters())
    free = psutil.virtual_memory().available // ranks.local_size
    if free >= more + beside:
        return ""
    return (
        f"our own kernel's weights take {more / 1e9:.1f} GB more per rank, and a rank's share of "
        f"the memory that is free here is {free / 1e9:.1f} GB"
    )


def used_kernels(unet: Any) -> Kernels:
    """What computes in a UNet, as `use_kernels` has made it."""
    return Kernels(
        attention.FUSED if is_fused(unet) else TORCH,
        convolution.WINOGRAD if is_winograd(unet) else TORCH,
    )


def _where_it_is(
    recorded: str, ours: str, kernel: KernelLibrary, ranks: Ranks, notify: Notify
) -> str:
    """What computes: what the record says, but PyTorch where some rank's machine lacks our own."""
    if recorded != ours:
        return TORCH
    if reasons := [reason for reason in every_rank(kernel.why_not(notify), ranks) if reason]:
        notify(
            f"the run was started with the {kernel.name} kernel, and {reasons[0]}: PyTorch's is "
            "used, whose last bits differ"
        )
        return TORCH
    return ours
