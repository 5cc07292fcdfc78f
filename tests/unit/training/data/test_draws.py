"""Samples are functions of seed, step and index; each pass sees every picture once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.config.run import Sampling
from training.data.draws import Draw, Draws, chunks, generator_for, share

DRAWS = Draws(
    seed=5, global_batch=4, pictures=7, prompts=27, num_train_timesteps=1000, latent_shape=(4, 3, 2)
)


def same(one: Draw, other: Draw) -> bool:
    first, second = dataclasses.asdict(one), dataclasses.asdict(other)
    return all(
        torch.equal(first[k], second[k])
        if isinstance(first[k], torch.Tensor)
        else first[k] == second[k]
        for k in first
    )


def test_a_sample_does_not_depend_on_what_was_drawn_before() -> None:
    wanted = DRAWS(11, 2)
    torch.manual_seed(99)
    again = dataclasses.replace(DRAWS)
    for step in (30, 2, 11):
        for index in (3, 0, 2):
            again(step, index)
    torch.randn(10)
    assert same(again(11, 2), wanted)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    DRAWS(0, 0)
    DRAWS.evaluation(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changed", [(12, 2, 5), (11, 3, 5), (11, 2, 6)])
def test_another_step_index_or_seed_is_another_sample(changed: tuple[int, int, int]) -> None:
    step, index, seed = changed
    other = dataclasses.replace(DRAWS, seed=seed)(step, index)
    wanted = DRAWS(11, 2)
    assert not torch.equal(other.noise, wanted.noise)
    assert not torch.equal(other.posterior_noise, wanted.posterior_noise)
    assert not torch.equal(wanted.noise, wanted.posterior_noise)


def test_noise_does_not_depend_on_the_number_of_ranks_or_pictures() -> None:
    """The same global batch, whatever computes it; only the picture follows the folder."""
    more = dataclasses.replace(DRAWS, pictures=9)
    assert torch.equal(more(3, 1).noise, DRAWS(3, 1).noise)
    assert more(3, 1).timestep == DRAWS(3, 1).timestep


def test_each_pass_is_a_permutation_of_its_own() -> None:
    order = [DRAWS(step, index).picture for step in range(70) for index in range(4)]
    passes = [tuple(order[start : start + 7]) for start in range(0, len(order), 7)]
    assert len(passes) == 40
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len(set(passes)) > 35


def test_flips_prompts_and_timesteps_are_uniform() -> None:
    draws = dataclasses.replace(DRAWS, latent_shape=(1, 1, 1))
    drawn = [draws(step, index) for step in range(2000) for index in range(4)]
    flips = sum(draw.flip for draw in drawn)
    assert stats.binomtest(flips, len(drawn)).pvalue > 1e-4
    for name, high, cells in (("timestep", 1000, 50), ("prompt", 27, 27)):
        values = [getattr(draw, name) for draw in drawn]
        assert min(values) >= 0
        assert max(values) < high
        counts = torch.histc(torch.tensor(values, dtype=torch.float), cells, 0, high)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4, name
    together = stats.contingency.crosstab(
        [draw.flip for draw in drawn], [draw.timestep // 100 for draw in drawn]
    )
    assert stats.chi2_contingency(together.count).pvalue > 1e-4


def test_noise_is_standard_normal() -> None:
    draws = dataclasses.replace(DRAWS, latent_shape=(4, 16, 16))
    for name in ("noise", "posterior_noise"):
        values = torch.cat([getattr(draws(step, 0), name).flatten() for step in range(20)])
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-4
    assert draws(0, 0).noise.shape == (4, 16, 16)
    assert draws(0, 0).noise.dtype == torch.float32


def test_evaluation_samples_are_fixed_and_spread() -> None:
    first, again = DRAWS.evaluation(8), DRAWS.evaluation(8)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert [draw.timestep for draw in first] == [62, 187, 312, 437, 562, 687, 812, 937]
    assert [draw.picture for draw in first] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert not any(draw.flip for draw in first)
    other = dataclasses.replace(DRAWS, seed=6).evaluation(8)
    assert not torch.equal(first[0].noise, other[0].noise)
    assert not torch.equal(first[0].noise, DRAWS(0, 0).noise)


def test_streams_of_neighbouring_seeds_are_apart() -> None:
    seeds = {
        generator_for(seed, *what).initial_seed()
        for seed in range(30)
        for what in [("sample", 1, 11), ("sample", 11, 1), ("order", 1), ("evaluation", 1)]
    }
    assert len(seeds) == 120
    assert generator_for(1, "sample", 2, 3).initial_seed() != (
        generator_for(1, "sample", 23).initial_seed()
    )


@given(total=st.integers(0, 200), size=st.integers(1, 40))
def test_shares_partition_and_differ_by_one_at_most(total: int, size: int) -> None:
    parts = [share(total, rank, size) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(start=st.integers(0, 20), length=st.integers(0, 50), most=st.integers(1, 20))
def test_chunks_keep_order_and_length(start: int, length: int, most: int) -> None:
    whole = range(start, start + length)
    parts = chunks(whole, most)
    assert [i for part in parts for i in part] == list(whole)
    assert all(len(part) == most for part in parts[:-1])
    assert all(0 < len(part) <= most for part in parts)


def test_pictures_with_captions_of_their_own_are_drawn_with_them() -> None:
    own = (4, 0, 2)
    plain = Draws(3, 4, 3, 5, 1000, (1, 2, 2))
    paired = Draws(3, 4, 3, 5, 1000, (1, 2, 2), of_picture=own, sampling=Sampling(mirror=False))
    for step in range(5):
        for index in range(4):
            draw, before = paired(step, index), plain(step, index)
            assert draw.prompt == own[draw.picture]
            assert not draw.flip
            assert torch.equal(draw.noise, before.noise)
            assert (draw.picture, draw.timestep) == (before.picture, before.timestep)
    assert [draw.prompt for draw in paired.evaluation(4)] == [4, 0, 2, 4]


def test_a_share_of_the_samples_has_the_empty_prompt() -> None:
    draws = Draws(
        3, 8, 3, 4, 1000, (1, 2, 2), of_picture=(0, 1, 2),
        sampling=Sampling(empty_prompts=0.25), empty_prompt=3,
    )  # fmt: skip
    empty = sum(draws(step, index).prompt == 3 for step in range(100) for index in range(8))
    assert 150 < empty < 250


def test_noise_offset_is_one_number_a_channel() -> None:
    plain = Draws(3, 1, 3, 4, 1000, (4, 8, 8))
    offset = Draws(3, 1, 3, 4, 1000, (4, 8, 8), sampling=Sampling(noise_offset=0.1))
    found = torch.stack([offset(step, 0).noise - plain(step, 0).noise for step in range(200)])
    assert torch.allclose(found, found[:, :, :1, :1].expand_as(found), atol=1e-6)
    assert 0.08 < float(found[:, :, 0, 0].std()) < 0.12


def test_a_picture_has_several_sentences_of_its_own() -> None:
    """Those of a word are drawn alike, and no other's; the noise is that of any sentences."""
    own = (0, 0, 27)
    shape = (1, 1, 1)
    draws = Draws(3, 4, 3, 54, 1000, shape, of_picture=own, variants=27)
    drawn = [draws(step, index) for step in range(1000) for index in range(4)]
    assert all(0 <= draw.prompt - own[draw.picture] < 27 for draw in drawn)
    counts = [sum(d.prompt - own[d.picture] == number for d in drawn) for number in range(27)]
    assert stats.chisquare(counts).pvalue > 1e-4
    assert {draw.prompt for draw in draws.evaluation(3)} == {0, 1, 29}
    any_sentence = Draws(3, 4, 3, 54, 1000, shape)
    assert torch.equal(draws(5, 1).noise, any_sentence(5, 1).noise)
