"""The kernel as PyTorch's operations `xeon_diffusion::attention` and its backward.

They have shapes without values (fake tensors) and a derivative: autograd and make_fx take them as
they take PyTorch's own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from training.machine.attention.library import ATTENTION
from training.machine.kernel_library import Size
from training.machine.scratch import scratch

FORWARD, BACKWARD = "xeon_diffusion::attention", "xeon_diffusion::attention_backward"
DTYPES = (torch.float32, torch.bfloat16)
CHANNELS = 256
"""The most that a head may have: `MOST_CHANNELS` of `kernel/forward.h`."""

torch.library.define(
    FORWARD, "(Tensor query, Tensor key, Tensor value, float scale) -> (Tensor, Tensor)"
)
torch.library.define(
    BACKWARD,
    "(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, "
    "float scale) -> (Tensor, Tensor, Tensor)",
)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(query key^T scale) value, by our own kernel: see `KernelLibrary.load`.

    Args:
        query: float32 or bfloat16 [B, heads, queries, channels], at most 256 channels.
        key, value: the same dtype, [B, heads, keys, channels].
        scale: 1 / sqrt(channels) unless given.

    Returns:
        [B, heads, queries, channels], of the same dtype, as [B, queries, heads, channels] in
        memory.
    """
    out: Tensor = torch.ops.xeon_diffusion.attention(
        query, key, value, query.shape[-1] ** -0.5 if scale is None else scale
    )[0]
    return out


def _empty_like_rows(like: Tensor) -> Tensor:
    """[B, heads, rows, channels], one row's heads beside each other in memory."""
    batch, heads, rows, channels = like.shape
    return like.new_empty(batch, rows, heads, channels).transpose(1, 2)


def _rows_in_order(value: Tensor) -> Tensor:
    return value if value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _strides(*tensors: Tensor) -> Any:
    """Of each tensor's samples: head and row."""
    numbers = [number for tensor in tensors for number in tensor.stride()[1:3]]
    return (Size * len(numbers))(*numbers)


def _sizes(query: Tensor, key: Tensor) -> Any:
    """Of one sample: the kernel is given one at a time, so that its scratch memory stays small."""
    _, heads, queries, channels = query.shape
    return (Size * 4)(heads, queries, key.shape[2], channels)


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Make sure that the kernel can take these: it reads memory by what it is told of it."""
    alike = query.dtype == key.dtype == value.dtype and key.shape == value.shape
    fits = alike and query.ndim == key.ndim == 4 and key.shape[2] > 0
    if (
        not fits
        or query.dtype not in DTYPES
        or query.shape[:2] != key.shape[:2]
        or query.shape[3] != key.shape[3]
        or query.shape[3] > CHANNELS
    ):
        shapes = ", ".join(f"{each.dtype} {list(each.shape)}" for each in (query, key, value))
        raise RuntimeError(f"attention: query, key and value do not fit: {shapes}")


@torch.library.impl(FORWARD, "CPU")
def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    kernel, threads = ATTENTION(), torch.get_num_threads()
    query, key, value = (_rows_in_order(each) for each in (query, key, value))
    out, logsumexp = _forward_shapes(query, key, value, scale)
    sizes, strides = _sizes(query, key), _strides(query, key, value, out)
    memory = scratch(kernel.attention_forward_scratch(sizes))
    for sample in zip(query, key, value, out, logsumexp, strict=True):
        kernel.attention_forward(
            query.dtype == torch.bfloat16, sizes, strides, *_pointers(*sample, memory),
            scale, threads,
        )  # fmt: skip
    return out, logsumexp


def _forward_shapes(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return _empty_like_rows(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.impl(BACKWARD, "CPU")
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel, threads = ATTENTION(), torch.get_num_threads()
    grad, query, key, value, out = (_rows_in_order(each) for each in (grad, query, key, value, out))
    logsumexp = logsumexp.contiguous()
    grads = _backward_shapes(grad, query, key, value, out, logsumexp, scale)
    sizes, strides = _sizes(query, key), _strides(query, key, value, grad, out, *grads)
    memory = scratch(kernel.attention_backward_scratch(sizes, threads))
    for sample in zip(query, key, value, grad, out, logsumexp, *grads, strict=True):
        kernel.attention_backward(
            query.dtype == torch.bfloat16, sizes, strides, *_pointers(*sample, memory),
            scale, threads,
        )  # fmt: skip
    return grads


def _backward_shapes(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like_rows(query), _empty_like_rows(key), _empty_like_rows(value)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(output[1])


def _derivative(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor, None]:
    query, key, value, out, logsumexp = ctx.saved_tensors
    gradients = torch.ops.xeon_diffusion.attention_backward(
        grad, query, key, value, out, logsumexp, ctx.scale
    )
    return *gradients, None


torch.library.register_fake(FORWARD, _forward_shapes)
torch.library.register_fake(BACKWARD, _backward_shapes)
torch.library.register_autograd(FORWARD, _derivative, setup_context=_setup)
