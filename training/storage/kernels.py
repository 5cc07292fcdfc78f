"""What computes a run's attention and convolutions: decided when it starts, kept in its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from training.data.inputs import Inputs
from training.machine.attention import choice as attention
from training.machine.attention.processor import is_fused, use_fused
from training.machine.convolution import choice as convolution
from training.machine.convolution.layer import is_winograd, use_winograd
from training.ranks.launcher import Ranks
from training.ranks.process_group import every_rank
from training.storage.run_directory import RunRecord

Notify = Callable[[str], None]
TORCH = "torch"


@dataclass(frozen=True)
class Kernels:
    """What computes the UNet's self-attention and its convolutions, as the record has it."""

    attention: str = TORCH
    convolution: str = TORCH


def choose_kernels(inputs: Inputs, dtype: torch.dtype, ranks: Ranks, notify: Notify) -> Kernels:
    """Our own kernels where they suit every rank's processor, PyTorch's elsewhere."""
    config, unet, side = inputs.config, inputs.models.unet, inputs.latent_side

    def chosen(what: str, ours: str, requested: str, why_torch: str) -> str:
        reasons = [reason for reason in every_rank(why_torch, ranks) if reason]
        if not reasons:
            notify(f"{what}: our own kernel (--{what} {ours})")
            return ours
        if requested == ours:
            notify(f"--{what} {ours}: {reasons[0]}: PyTorch's {what} is used")
        return TORCH

    tokens, positions = attention.largest(unet, side), convolution.largest(unet, side)
    return Kernels(
        chosen(
            "attention", attention.FUSED, config.attention,
            attention.why_torch(config.attention, tokens, dtype, notify),
        ),
        chosen(
            "convolution", convolution.WINOGRAD, config.convolution,
            convolution.why_torch(config.convolution, positions, dtype, notify),
        ),
    )  # fmt: skip


def use_kernels(inputs: Inputs, record: RunRecord, ranks: Ranks, notify: Notify) -> None:
    """Put the kernels that a run was started with into its frozen UNet."""
    unet = inputs.models.unet
    if record.attention == attention.FUSED and _is_there("attention", attention, ranks, notify):
        use_fused(unet)
    if record.convolution == convolution.WINOGRAD and _is_there(
        "convolution", convolution, ranks, notify
    ):
        use_winograd(unet, inputs.latent_side)


def used_kernels(unet: Any) -> Kernels:
    """What computes in a UNet, as `use_kernels` has made it."""
    return Kernels(
        attention.FUSED if is_fused(unet) else TORCH,
        convolution.WINOGRAD if is_winograd(unet) else TORCH,
    )


def _is_there(what: str, kernel: ModuleType, ranks: Ranks, notify: Notify) -> bool:
    """Whether every rank's machine has a kernel."""
    if reasons := [reason for reason in every_rank(kernel.why_not(notify), ranks) if reason]:
        notify(
            f"the run was started with the {what} kernel, and {reasons[0]}: PyTorch's is used, "
            "whose last bits differ"
        )
    return not reasons
