"""Token Merging: self-attention over fewer tokens, where a picture's tokens are alike.

Bolya and Hoffman, "Token Merging for Fast Stable Diffusion" (CVPR workshops 2023), section 3: of
every 2 x 2 tokens one is a destination, the other three are sources; the sources most similar to
some destination are averaged into it, self-attention sees what is left, and every merged token gets
its destination's output. Two things differ from the paper's default: the destination is always the
upper left of the four, where the paper draws it at random per step, so that a picture depends on
its seed alone and the graph can be exported; and similarity is that of the normalized hidden
states that the attention is given, not of those before the norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.errors import UserError

MOST = 0.75
"""Three of every four tokens are sources: no more can be merged."""


def check_ratio(ratio: float) -> None:
    """Raises UserError for a ratio that cannot be merged."""
    if not 0 <= ratio <= MOST:
        raise UserError(
            f"--merge_tokens {ratio:g}: must be from 0 (none) to {MOST}: of every four tokens "
            "three can be merged."
        )


@dataclass(frozen=True)
class Merging:
    """Which tokens are merged into which.

    Attributes:
        destinations: positions of the destination tokens, int64 [D].
        sources: positions of the others, int64 [N - D].
        kept: the sources that stay, as places in `sources`, int64 [B, N - D - r, 1].
        merged: the sources that are merged, the same, int64 [B, r, 1].
        into: the destination of each of `merged`, as a place in `destinations`, int64 [B, r, 1].
    """

    destinations: Tensor
    sources: Tensor
    kept: Tensor
    merged: Tensor
    into: Tensor


def match(tokens: Tensor, height: int, width: int, count: int) -> Merging:
    """Find the `count` sources that are most similar to a destination.

    Args:
        tokens: float [B, height x width, C], in rows.
        count: r, at most three quarters of the tokens.
    """
    # Constants, so that every shape in an exported graph is known.
    upper_left = [y * width + x for y in range(0, height, 2) for x in range(0, width, 2)]
    others = sorted(set(range(height * width)) - set(upper_left))
    destinations = torch.tensor(upper_left, device=tokens.device)
    sources = torch.tensor(others, dtype=torch.int64, device=tokens.device)
    normalized = functional.normalize(tokens, dim=-1)
    similarity = normalized[:, sources] @ normalized[:, destinations].transpose(-1, -2)
    closeness, nearest = similarity.max(dim=-1)
    order = closeness.argsort(dim=-1, descending=True, stable=True).unsqueeze(-1)
    merged, kept = order[:, :count], order[:, count:]
    return Merging(destinations, sources, kept, merged, nearest.unsqueeze(-1).gather(1, merged))


def merge(tokens: Tensor, merging: Merging) -> Tensor:
    """Average the merged tokens into their destinations.

    Args:
        tokens: float [B, N, C].

    Returns:
        float [B, N - r, C]: the sources that stay, then the destinations.
    """
    width = tokens.shape[-1]
    sources, destinations = tokens[:, merging.sources], tokens[:, merging.destinations]
    kept = sources.gather(1, merging.kept.expand(-1, -1, width))
    merged = sources.gather(1, merging.merged.expand(-1, -1, width))
    into = merging.into.expand(-1, -1, width)
    total = destinations.scatter_add(1, into, merged)
    count = torch.ones_like(destinations).scatter_add(1, into, torch.ones_like(merged))
    return torch.cat([kept, total / count], dim=1)


def unmerge(tokens: Tensor, merging: Merging) -> Tensor:
    """Give every token its output: a merged one its destination's.

    Args:
        tokens: float [B, N - r, C], as `merge` orders them.

    Returns:
        float [B, N, C], in their first order.
    """
    width = tokens.shape[-1]
    kept, destinations = tokens.split([merging.kept.shape[1], merging.destinations.shape[0]], dim=1)
    merged = destinations.gather(1, merging.into.expand(-1, -1, width))
    order = torch.cat([merging.merged, merging.kept], dim=1)
    # The place of each source in what is concatenated below.
    back = order.argsort(dim=1).expand(-1, -1, width)
    sources = torch.cat([merged, kept], dim=1).gather(1, back)
    first = torch.cat([merging.sources, merging.destinations]).argsort()
    return torch.cat([sources, destinations], dim=1)[:, first]


class _Step(nn.Module):
    """A function as a module: its operations have a path of their own, apart from attention's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        """What the function returns."""
        return self.function(*args)


class MergedSelfAttention(nn.Module):
    """A self-attention layer that sees merged tokens.

    Args:
        attention: diffusers' layer.
        ratio: of tokens that are merged.
    """

    def __init__(self, attention: nn.Module, ratio: float) -> None:
        super().__init__()
        self.attention, self.ratio = attention, ratio
        self.match, self.merge, self.unmerge = _Step(match), _Step(merge), _Step(unmerge)
        self.height = self.width = 0  # set by its transformer, which knows the picture's shape

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Self-attention of float [B, N, C]; the same shape comes out."""
        count = math.floor(self.height * self.width * self.ratio)
        merging = self.match(hidden_states, self.height, self.width, count)
        out: Tensor = self.attention(self.merge(hidden_states, merging), *args, **kwargs)
        unmerged: Tensor = self.unmerge(out, merging)
        return unmerged


def highest_with_attention(unet: Any, ratio: float) -> int:
    """The number of the down block whose self-attention is to see merged tokens.

    Args:
        ratio: of tokens, for the message.

    Raises:
        UserError: no down block has attention.
    """
    for number, block in enumerate(unet.down_blocks):
        if hasattr(block, "attentions"):
            return number
    raise UserError(
        f"--merge_tokens {ratio:g}: this UNet has no attention outside its middle block. Leave out "
        "--merge_tokens."
    )


def merge_tokens(unet: Any, ratio: float) -> None:
    """Let a UNet's self-attention at its highest resolution see merged tokens, from now on.

    The other resolutions have a quarter of the tokens or fewer: the paper leaves them as they are.

    Args:
        unet: a UNet2DConditionModel, changed in place.
        ratio: of tokens that are merged, 0 to 0.75; 0 changes nothing.

    Raises:
        UserError: another ratio, or a UNet without attention outside its middle.
    """
    check_ratio(ratio)
    if ratio == 0:
        return
    levels, first = len(unet.down_blocks), highest_with_attention(unet, ratio)
    for block in (unet.down_blocks[first], unet.up_blocks[levels - 1 - first]):
        for transformer in block.attentions:
            for layer in transformer.transformer_blocks:
                layer.attn1 = MergedSelfAttention(layer.attn1, ratio)
            transformer.register_forward_pre_hook(_tell_shape, with_kwargs=True)


def _tell_shape(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell a transformer's layers the shape of what it is given; a copy of it tells its own."""
    hidden_states = args[0] if args else kwargs["hidden_states"]
    for layer in transformer.transformer_blocks:  # type: ignore[union-attr]
        layer.attn1.height, layer.attn1.width = (int(side) for side in hidden_states.shape[-2:])
