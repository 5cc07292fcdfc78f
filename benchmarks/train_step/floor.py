"""What a training step cannot be faster than: its operations over this machine's own peak."""

from __future__ import annotations

import time

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from training.models.files.single_file import MADE_AS

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
"""By the values of `--precision`."""
SHAPE = (4096, 1280, 1280)
"""Rows, inputs and outputs of the matrix product whose speed is called the peak."""
ROUNDS = 20
TOKENS, TEXT_WIDTH = 77, 768


def step_tflop(resolution: int) -> float:
    """10^12 operations of a step of batch 1: the UNet's forward pass and the backward pass to its
    input text, counted on tensors without data. A multiplication and an addition are two.

    Args:
        resolution: of the picture, in pixels.
    """
    side = resolution // 8
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(str(MADE_AS / "unet"))
        ).requires_grad_(False)
        latents = torch.empty(1, 4, side, side)
        text = torch.empty(1, TOKENS, TEXT_WIDTH, requires_grad=True)
        with FlopCounterMode(display=False) as counted:
            unet(latents, torch.tensor(1), encoder_hidden_states=text).sample.sum().backward()
    return float(counted.get_total_flops() / 1e12)


def peak_tflops(dtype: torch.dtype) -> float:
    """10^12 operations per second of the fastest of `ROUNDS` matrix products in `dtype`."""
    rows, inputs, outputs = SHAPE
    values, weights = (
        torch.ones(rows, inputs, dtype=dtype),
        torch.ones(outputs, inputs, dtype=dtype),
    )
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        F.linear(values, weights)
        seconds.append(time.perf_counter() - began)
    return 2 * rows * inputs * outputs / min(seconds) / 1e12
