"""The objective against diffusers' DDPMScheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models import objective

SCHEDULERS = {
    name: DDPMScheduler(beta_schedule=name)
    for name in ("linear", "scaled_linear", "squaredcos_cap_v2")
}
shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))


def drawn(shape: tuple[int, ...], seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 2**31), name=st.sampled_from(sorted(SCHEDULERS)))
def test_noised_latents_and_targets_are_those_of_ddpm(
    shape: tuple[int, ...], seed: int, name: str
) -> None:
    scheduler = SCHEDULERS[name]
    latents, noise = drawn(shape, seed, 2)
    timesteps = torch.randint(0, 1000, (shape[0],), generator=torch.Generator().manual_seed(seed))
    alphas = scheduler.alphas_cumprod[timesteps]
    noisy = objective.add_noise(latents, noise, alphas)
    velocity = objective.target("v_prediction", latents, noise, alphas)
    assert noisy.shape == velocity.shape == shape
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(velocity, scheduler.get_velocity(latents, noise, timesteps))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 2**31), alpha=st.floats(0, 1))
def test_velocity_and_noised_latents_give_both_parts_back(
    shape: tuple[int, ...], seed: int, alpha: float
) -> None:
    latents, noise = (tensor.double() for tensor in drawn(shape, seed, 2))
    alphas = torch.full((shape[0],), alpha, dtype=torch.float64)
    noisy = objective.add_noise(latents, noise, alphas)
    velocity = objective.target("v_prediction", latents, noise, alphas)
    signal, rest = alpha**0.5, (1 - alpha) ** 0.5
    torch.testing.assert_close(signal * noisy - rest * velocity, latents)
    torch.testing.assert_close(rest * noisy + signal * velocity, noise)


def test_other_targets() -> None:
    latents, noise = drawn((2, 4, 3, 3), 0, 2)
    alphas = torch.tensor([0.5, 0.1])
    assert objective.target("epsilon", latents, noise, alphas) is noise
    assert objective.target("sample", latents, noise, alphas) is latents
    with pytest.raises(ValueError, match="unknown prediction type 'flow'"):
        objective.target("flow", latents, noise, alphas)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 2**31))
def test_the_error_is_a_mean_over_each_sample(shape: tuple[int, ...], seed: int) -> None:
    prediction, wanted = drawn(shape, seed, 2)
    found = objective.mean_squared_error(prediction, wanted)
    by_hand = torch.stack([((p - w) ** 2).mean() for p, w in zip(prediction, wanted, strict=True)])
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(
        found.mean(), torch.nn.functional.mse_loss(prediction, wanted, reduction="mean")
    )


@pytest.mark.parametrize(
    ("given_dtype", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_error_is_computed_in_float32_at_least(
    given_dtype: torch.dtype, computed: torch.dtype
) -> None:
    prediction, wanted = (tensor.to(given_dtype) for tensor in drawn((2, 3, 4, 4), 1, 2))
    assert objective.mean_squared_error(prediction, wanted).dtype == computed


def test_posterior_samples_clamp_the_log_variance_as_diffusers_does() -> None:
    mean = torch.zeros(1, 1, 1, 2)
    logvar = torch.tensor([[[[-80.0, 50.0]]]])
    found = objective.sample_posterior(
        mean, objective.deviation(logvar), torch.ones(1, 1, 1, 2), 2.0
    )
    wanted = 2 * torch.exp(0.5 * torch.tensor([-30.0, 20.0]))
    torch.testing.assert_close(found.flatten(), wanted)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper(gamma: float) -> None:
    alphas = torch.tensor([0.999, 0.9, 0.5, 0.01], dtype=torch.float64)
    snr = alphas / (1 - alphas)
    least = torch.minimum(snr, torch.full_like(snr, gamma))
    assert torch.allclose(objective.min_snr_weights("epsilon", alphas, gamma), least / snr)
    assert torch.allclose(
        objective.min_snr_weights("v_prediction", alphas, gamma), least / (snr + 1)
    )
    # The same weight of the error in x_0, whatever is predicted.
    in_x0 = objective.min_snr_weights("epsilon", alphas, gamma) * snr
    assert torch.allclose(in_x0, objective.min_snr_weights("sample", alphas, gamma))


def test_min_snr_weights_are_finite_where_nothing_but_noise_is_left() -> None:
    nothing = torch.zeros(1)
    assert objective.min_snr_weights("epsilon", nothing, 5).item() == 1
    assert objective.min_snr_weights("v_prediction", nothing, 5).item() == 0
