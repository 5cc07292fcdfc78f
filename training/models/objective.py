"""The diffusion objective as pure functions of tensors (Ho et al. 2020; Salimans & Ho 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def deviation(logvar: torch.Tensor) -> torch.Tensor:
    """The standard deviation at a log-variance, of the same shape.

    As in diffusers, the log-variance is clamped to [-30, 20].
    """
    return torch.exp(0.5 * logvar.clamp(-30.0, 20.0))


def sample_posterior(
    mean: torch.Tensor, deviation: torch.Tensor, noise: torch.Tensor, scaling_factor: float
) -> torch.Tensor:
    """A scaled latent from the VAE's diagonal Gaussian.

    Args:
        mean, deviation, noise: [batch, channels, height, width], floating point.
        scaling_factor: the VAE's own, which brings latents to unit variance.

    Returns:
        Latents of the same shape.
    """
    return (mean + deviation * noise) * scaling_factor


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) e.

    Args:
        latents, noise: [batch, channels, height, width].
        alphas_cumprod: [batch], the cumulative alpha at each sample's timestep.
    """
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(
    prediction_type: str, latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """What the UNet should say: e, v = sqrt(a) e - sqrt(1 - a) x_0, or x_0; shapes as `add_noise`.

    Raises:
        ValueError: a prediction type other than `PREDICTION_TYPES`.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha = alphas_cumprod.view(-1, 1, 1, 1)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    if prediction_type == "sample":
        return latents
    raise ValueError(f"unknown prediction type {prediction_type!r}: not in {PREDICTION_TYPES}")


def mean_squared_error(prediction: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each sample: [batch, ...] twice -> [batch].

    Computed in float32, or in float64 where the prediction is.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    error = F.mse_loss(prediction.to(dtype), wanted.to(dtype), reduction="none")
    return error.flatten(1).mean(1)


def min_snr_weights(
    prediction_type: str, alphas_cumprod: torch.Tensor, snr_gamma: float
) -> torch.Tensor:
    """Weights of the samples' losses: min(SNR, gamma) over SNR (e), or over SNR + 1 (v).

    Hang et al. 2023 (arXiv 2303.09556), for losses in what the UNet predicts. At an SNR of zero
    the first is one.

    Args:
        alphas_cumprod: [batch], the cumulative alpha at each sample's timestep.

    Returns:
        [batch].
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "v_prediction":
        return snr.clamp(max=snr_gamma) / (snr + 1)
    if prediction_type == "sample":
        return snr.clamp(max=snr_gamma)
    return torch.where(snr > 0, snr.clamp(max=snr_gamma) / snr, torch.ones_like(snr))
