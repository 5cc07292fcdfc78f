"""8-bit post-training quantization of an exported pipeline's UNet, calibrated on prompts.

NNCF watches the UNet draw and fits 8-bit scales to the values that pass through it. Then both the
weights and the inputs of matrix products and convolutions are int8, so that a processor multiplies
in int8 (VNNI, AMX) where int8 weights alone are expanded first. Attention's softmax, norms and sums
stay in floating point. The other parts compute little: they get int8 weights alone.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

STEPS = 8
"""Denoising steps that each prompt is drawn in."""
LEFT_OUT = (".*conv_in.*", ".*conv_out.*", ".*time_embedding.*")
"""What the UNet begins and ends with costs little, and its error is in every pixel."""

Inputs = dict[str, Any]


def prompts_needed(steps: int) -> int:
    """How many prompts `steps` denoising steps in all are drawn from."""
    return -(-steps // STEPS)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """NNCF's progress on standard error; what it did with each layer is left out."""
    import nncf

    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        yield


def compress_weights(exported: Any, parts: Sequence[str]) -> None:
    """Store the weights of parts of an OVStableDiffusionPipeline as int8; in place."""
    import nncf

    with quietly():
        for part in parts:
            graph = getattr(exported, part)
            graph.model = nncf.compress_weights(graph.model)


def compress_quantized(part: Any) -> None:
    """Store the weights that a part's graph rounds to 8 bits as int8; in place."""
    from openvino._offline_transformations import compress_quantize_weights_transformation

    compress_quantize_weights_transformation(part.model)


def quantize_unet(
    exported: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    shape: tuple[int, int, int] | None,
    say: Callable[[str], None],
) -> None:
    """Quantize weights and activations of an OVStableDiffusionPipeline's UNet; in place.

    Args:
        prompts: drawn in turn, `STEPS` steps each, until there are enough.
        steps: of denoising to calibrate with, in all.
        guidance_scale: that pictures will be drawn with.
        shape: pictures at a time, height and width in pixels; None: one that the model draws.
    """
    import nncf

    inputs = _record(exported, prompts, steps, guidance_scale, shape, say)
    say(f"quantizing the UNet on {len(inputs)} denoising steps")
    model = exported.unet.model
    with quietly():
        exported.unet.model = nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(patterns=list(LEFT_OUT), validate=False),
        )


def _record(
    exported: Any,
    prompts: Sequence[str],
    steps: int,
    guidance_scale: float,
    shape: tuple[int, int, int] | None,
    say: Callable[[str], None],
) -> list[Inputs]:
    """What the UNet is given while `prompts` are drawn."""
    recorded: list[Inputs] = []
    unet = exported.unet
    unet.compile()
    request = unet.request

    def watched(inputs: Inputs, *arguments: Any, **named: Any) -> Any:
        recorded.append({name: np.array(value) for name, value in inputs.items()})
        say(f"calibrating: step {len(recorded)} of {steps}")
        return request(inputs, *arguments, **named)

    batch_size, height, width = shape or (1, None, None)
    unet.request = watched
    try:
        for number in range(prompts_needed(steps)):
            exported(
                [prompts[number % len(prompts)]] * batch_size,
                height=height,
                width=width,
                num_inference_steps=min(STEPS, steps - number * STEPS),
                guidance_scale=guidance_scale,
                generator=torch.Generator().manual_seed(number),
                output_type="latent",
            )
    finally:
        exported.clear_requests()  # they hold the graphs as they were
    return recorded
