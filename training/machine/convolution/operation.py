"""Winograd's convolution as PyTorch's operations `xeon_diffusion::convolution` and its backward.

They have shapes without values (fake tensors) and a derivative by their input: autograd and make_fx
take them as they take PyTorch's own. The weights are constants.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from training.machine.convolution.library import CONVOLUTION
from training.machine.kernel_library import Size
from training.machine.scratch import scratch

FORWARD, BACKWARD = "xeon_diffusion::convolution", "xeon_diffusion::convolution_backward"
LANES = 16
"""Channels are multiples of it: `LANES` of `kernel/transforms.h`."""
SCRATCH = 2**24
"""Floats in which several samples, or a strip of a large one, are computed together."""

torch.library.define(FORWARD, "(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
torch.library.define(BACKWARD, "(Tensor grad, Tensor weight) -> Tensor")


def convolution(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with 3 x 3 taps, stride 1 and padding 1.

    Args:
        value: float32 [N, C, H, W].
        weight: float32 [(m + 2)^2, K, C] of `transform_weight`; it gets no gradient.
        bias: float32 [K]; it gets no gradient.

    Returns:
        float32 [N, K, H, W], the channels beside each other in memory.

    Raises:
        RuntimeError: the tensors do not fit each other.
    """
    out: Tensor = torch.ops.xeon_diffusion.convolution(value, weight, bias)
    return out


def transform_weight(weight: Tensor, outputs: int) -> Tensor:
    """What `convolution` takes, float32 [(outputs + 2)^2, K, C], of weights [K, C, 3, 3].

    Args:
        weight: float32; K and C are multiples of `LANES`.
        outputs: 1, 2 or 4: a tile of outputs x outputs is computed together. 1 is the direct
            convolution; 2 takes 2.25 times fewer multiplications and 1.8 times the memory for
            weights, 4 takes 4 times fewer and 4 times the memory.
    """
    many, few = weight.shape[:2]
    taps = weight.detach().contiguous()
    made = weight.new_empty((outputs + 2) ** 2, many, few)
    CONVOLUTION().convolution_weights(
        outputs, _sizes(many, few), _pointer(taps), _pointer(made), torch.get_num_threads()
    )
    return made


def _outputs(weight: Tensor) -> int:
    """Height and width of a tile of outputs."""
    return math.isqrt(weight.shape[0]) - 2


def _sizes(*numbers: int) -> Any:
    return (Size * len(numbers))(*numbers)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _check(value: Tensor, weight: Tensor, channels: int, bias: Tensor | None) -> None:
    """Make sure that the kernel can take these: it reads memory by what it is told of it."""
    given = [value, weight] if bias is None else [value, weight, bias]
    if (
        any(each.dtype != torch.float32 for each in given)
        or value.ndim != 4
        or weight.ndim != 3
        or weight.shape[0] not in (9, 16, 36)
        or value.shape[1] != channels
        or (bias is not None and bias.shape != weight.shape[1:2])
        or any(number % LANES for number in weight.shape[1:])
        or not weight.is_contiguous()
    ):
        shapes = ", ".join(f"{each.dtype} {list(each.shape)}" for each in given)
        raise RuntimeError(f"convolution: input, weight and bias do not fit: {shapes}")


def _convolve(value: Tensor, weight: Tensor, bias: Tensor | None, backward: bool) -> Tensor:
    """Transform the input's tiles, multiply, transform back.

    Args:
        weight: [tiles' elements, K, C], from C to K channels; `backward`: from K to C, the taps
            reversed.
    """
    kernel, threads, side = CONVOLUTION(), torch.get_num_threads(), _outputs(weight)
    value = value.contiguous(memory_format=torch.channels_last)
    matrices = weight if backward else weight.transpose(1, 2)
    elements, before, after = matrices.shape
    out = _empty(value, after)
    _, _, height, width = value.shape
    for samples, first, rows in _turns(value, side, elements * (before + after)):
        part, made = value[samples], out[samples]
        tiles = len(part) * rows * math.ceil(width / side)
        memory = scratch(elements * tiles * (before + after))
        inputs = memory[: elements * tiles * before].view(elements, tiles, before)
        products = memory[inputs.numel() :][: elements * tiles * after].view(elements, tiles, after)
        kernel.convolution_inputs(
            side, backward, _sizes(len(part), height, width, before, first, rows),
            _pointer(part), _pointer(inputs), threads,
        )  # fmt: skip
        torch.bmm(inputs, matrices, out=products)
        kernel.convolution_outputs(
            side, backward, _sizes(len(part), height, width, after, first, rows),
            _pointer(products), _pointer(bias), _pointer(made), threads,
        )  # fmt: skip
    return out


def _turns(value: Tensor, side: int, floats: int) -> Iterator[tuple[slice, int, int]]:
    """What is computed together: samples, the first row of tiles of each, and how many rows.

    Args:
        value: [N, C, H, W].
        side: of a tile.
        floats: that a tile takes.
    """
    count, _, height, width = value.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    together = SCRATCH // (floats * rows * columns)
    if together:
        for first in range(0, count, together):
            yield slice(first, first + together), 0, rows
        return
    strip = max(1, SCRATCH // (floats * columns))
    for sample in range(count):
        for first in range(0, rows, strip):
            yield slice(sample, sample + 1), first, min(strip, rows - first)


def _empty(value: Tensor, channels: int) -> Tensor:
    samples, _, height, width = value.shape
    return value.new_empty(samples, height, width, channels).permute(0, 3, 1, 2)


@torch.library.impl(FORWARD, "CPU")
def _forward(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _check(value, weight, weight.shape[2], bias)
    return _convolve(value, weight, None if bias is None else bias.contiguous(), backward=False)


@torch.library.impl(BACKWARD, "CPU")
def _backward(grad: Tensor, weight: Tensor) -> Tensor:
    _check(grad, weight, weight.shape[1], None)
    return _convolve(grad, weight, None, backward=True)


def _forward_shape(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _empty(value, weight.shape[1])


def _backward_shape(grad: Tensor, weight: Tensor) -> Tensor:
    return _empty(grad, weight.shape[2])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (weight,) = ctx.saved_tensors
    return torch.ops.xeon_diffusion.convolution_backward(grad, weight), None, None


torch.library.register_fake(FORWARD, _forward_shape)
torch.library.register_fake(BACKWARD, _backward_shape)
torch.library.register_autograd(FORWARD, _derivative, setup_context=_setup)
