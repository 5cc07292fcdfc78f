"""The kernel in a UNet: diffusers' attention processor, with our own operation in its middle."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from training.machine.attention.operation import CHANNELS, DTYPES, attention

FEWEST = 512
"""Tokens. Over fewer PyTorch's is as fast, or faster: `python -m benchmarks.attention`."""


class FusedAttnProcessor(AttnProcessor2_0):
    """Self-attention over many tokens by our own operation; all else as diffusers does it."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Attention of float [B, N, C] over itself; the same shape comes out."""
        plain = encoder_hidden_states is None and attention_mask is None and temb is None
        if not plain or hidden_states.ndim != 3 or hidden_states.shape[1] < FEWEST:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )
        batch, tokens, _ = hidden_states.shape
        query, key, value = (
            layer(hidden_states).view(batch, tokens, attn.heads, -1).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = attention(query, key, value).transpose(1, 2).reshape(batch, tokens, -1)
        for layer in attn.to_out:
            out = layer(out)
        return out


def use_fused(unet: nn.Module) -> int:
    """Let a UNet's self-attention over many tokens be computed by the kernel, from now on.

    Returns:
        How many layers are: those of the form that Stable Diffusion's have.
    """
    layers = [layer for _, layer in self_attention(unet) if _takes(layer)]
    for layer in layers:
        layer.set_processor(FusedAttnProcessor())
    return len(layers)


def is_fused(unet: nn.Module) -> bool:
    """Whether the kernel computes in a UNet, as `use_fused` has made it."""
    return any(isinstance(layer.processor, FusedAttnProcessor) for _, layer in self_attention(unet))


def self_attention(unet: nn.Module) -> list[tuple[str, Attention]]:
    """The layers whose tokens attend to each other, and their names."""
    return [
        (name, module)
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and not module.is_cross_attention
    ]


def _takes(layer: Attention) -> bool:
    return (
        type(layer.processor) is AttnProcessor2_0
        and layer.to_q.weight.dtype in DTYPES
        and layer.inner_dim // layer.heads <= CHANNELS
        and layer.inner_dim == layer.inner_kv_dim
        and layer.spatial_norm is None
        and layer.group_norm is None
        and layer.norm_q is None
        and layer.norm_k is None
        and not layer.residual_connection
        and layer.rescale_output_factor == 1.0
    )
