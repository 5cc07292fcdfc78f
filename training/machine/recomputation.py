"""Layers of a frozen UNet that keep less for the backward pass, and compute the rest again there.

What autograd would keep is the input of each operation. Of a normalization and its activation one
input does, of a frozen convolution none: its gradient by the input needs the weight alone. What is
computed again is elementwise and a few sums, which take a hundredth of a matrix product's time. All
gradients have the bits that they have without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def keep_less(unet: nn.Module) -> int:
    """Let a UNet's frozen layers keep less for the backward pass, from now on.

    Weights and names stay as they are: a layer's class alone is another.

    Returns:
        How many layers do.
    """
    layers = [(layer, kind) for layer in unet.modules() if (kind := _kind(layer))]
    for layer, kind in layers:
        layer.__class__ = kind
    return len(layers)


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    """The class that a layer is to have; None: it stays as it is."""
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        return FrozenConv2d if _is_frozen(layer) and not isinstance(layer.padding, str) else None
    if type(layer) is GEGLU and _is_frozen(layer.proj):
        return RecomputedGEGLU
    if (
        type(layer) is ResnetBlock2D
        and _is_frozen(layer.norm1)
        and _is_frozen(layer.norm2)
        and isinstance(layer.nonlinearity, nn.SiLU)
        and layer.upsample is None
        and layer.downsample is None
        and layer.time_emb_proj is not None
        and layer.time_embedding_norm == "default"
        and not layer.skip_time_act
        and layer.dropout.p == 0
    ):
        return RecomputedResnetBlock2D
    return None


def _is_frozen(layer: Any) -> bool:
    """Whether a layer's own parameters are; adapters beside it may be trained."""
    return not any(value.requires_grad for value in layer.parameters(recurse=False))


def recomputed(compute: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """compute(value), of which `value` alone is kept for the backward pass.

    Args:
        compute: of `value` and constants; of the same bits at each call.
    """
    out: Tensor = _Recomputed.apply(value, compute)  # type: ignore[no-untyped-call]
    return out


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(value)
        ctx.compute = compute
        return compute(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        value = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.compute(value)
        return torch.autograd.grad(out, value, grad)[0], None


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, layer: nn.Conv2d) -> Tensor:
        ctx.layer, ctx.shape = layer, value.shape
        ctx.last = value.is_contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(layer.weight)
        return layer._conv_forward(value, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        # Of the input nothing but its shape and its layout is looked at.
        layout = torch.channels_last if ctx.last else torch.contiguous_format
        like = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=layout)
        layer: nn.Conv2d = ctx.layer
        found = torch.ops.aten.convolution_backward(
            grad, like, weight, None, layer.stride, layer.padding, layer.dilation,
            False, [0, 0], layer.groups, [True, False, False],
        )  # fmt: skip
        return found[0], None


class FrozenConv2d(nn.Conv2d):
    """A convolution whose input is not kept."""

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Conv2d`; weight and bias get no gradient."""
        out: Tensor = _FrozenConvolution.apply(input, self)  # type: ignore[no-untyped-call]
        return out


class RecomputedGEGLU(GEGLU):
    """A gated linear unit of which the projection alone is kept."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As of `GEGLU`: [..., dim_out] of [..., dim_in]."""

        def gated(projection: Tensor) -> Tensor:
            value, gate = projection.chunk(2, dim=-1)
            return value * F.gelu(gate)

        return recomputed(gated, self.proj(hidden_states))


class RecomputedResnetBlock2D(ResnetBlock2D):
    """A block that keeps the inputs of its normalizations, and not those of its activations."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As of `ResnetBlock2D`: [N, out_channels, H, W] of [N, in_channels, H, W]."""
        hidden = self.conv1(recomputed(lambda x: F.silu(self.norm1(x)), input_tensor))
        hidden = hidden + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(recomputed(lambda x: F.silu(self.norm2(x)), hidden))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        out: Tensor = (input_tensor + hidden) / self.output_scale_factor
        return out
