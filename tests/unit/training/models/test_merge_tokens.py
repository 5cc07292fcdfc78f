"""Tokens that are alike are merged, and every token gets an output again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.errors import UserError
from training.models.merge_tokens import MergedSelfAttention, check_ratio, match, merge, unmerge


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_what_is_merged_has_the_mean_and_comes_back_to_its_place(
    height: int, width: int, share: float, seed: int
) -> None:
    height, width = 2 * height, 2 * width
    size = height * width
    tokens = torch.randn(2, size, 5, generator=torch.Generator().manual_seed(seed))
    count = int(size * 0.75 * share)
    merging = match(tokens, height, width, count)
    merged = merge(tokens, merging)
    assert merged.shape == (2, size - count, 5)
    back = unmerge(merged, merging)
    assert back.shape == tokens.shape
    for picture in range(2):
        sources = merging.sources[merging.merged[picture, :, 0]]
        targets = merging.destinations[merging.into[picture, :, 0]]
        for place in range(size):
            if place in sources:
                to = targets[sources.tolist().index(place)]
                torch.testing.assert_close(back[picture, place], back[picture, to])
            elif place in targets:
                group = [place, *sources[targets == place].tolist()]
                torch.testing.assert_close(
                    back[picture, place], tokens[picture, group].mean(0), atol=1e-5, rtol=1e-5
                )
            else:
                torch.testing.assert_close(back[picture, place], tokens[picture, place])


def test_the_most_alike_are_merged_and_equal_tokens_lose_nothing() -> None:
    tokens = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    tokens[0, 0, 1] = tokens[0, 0, 0]  # a source that equals a destination
    flat = tokens.reshape(1, 16, 8)
    merging = match(flat, 4, 4, 1)
    assert merging.sources[merging.merged[0, 0, 0]] == 1
    assert merging.destinations[merging.into[0, 0, 0]] == 0
    torch.testing.assert_close(unmerge(merge(flat, merging), merging), flat)


def test_attention_sees_fewer_tokens_and_ratio_0_changes_nothing() -> None:
    class Seen(nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            self.shape = hidden_states.shape
            return 2 * hidden_states

    tokens = torch.randn(1, 64, 3)
    for ratio, left in ((0.4, 39), (0.75, 16), (0.0, 64)):
        seen = Seen()
        layer = MergedSelfAttention(seen, ratio)
        layer.height = layer.width = 8
        out = layer(tokens)
        assert seen.shape == (1, left, 3)
        assert out.shape == tokens.shape
    torch.testing.assert_close(out, 2 * tokens)


@pytest.mark.parametrize("ratio", [-0.1, 0.76, float("nan")])
def test_a_ratio_outside_what_can_be_merged_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match=r"from 0 .* to 0\.75"):
        check_ratio(ratio)
