"""The loss of samples as a pure function of what is trained, under the frozen models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from training.method import Values
from training.models import objective
from training.models.loading import Models


@dataclass(frozen=True)
class Batch:
    """Training samples as tensors: all that a loss needs beside the models.

    Attributes:
        moments: [samples, 2 (mean, deviation), C, H, W], of the encoded pictures.
        posterior_noise, noise: [samples, C, H, W], standard normal.
        timesteps: [samples], int64.
        token_ids: [samples, length], int64.
        text: [samples, length, width], what the text encoder makes of them, where that is fixed.
    """

    moments: torch.Tensor
    posterior_noise: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    token_ids: torch.Tensor
    text: torch.Tensor | None = None


@dataclass(frozen=True)
class Noised:
    """Noised samples, as the UNet is given them.

    Attributes:
        latents: [samples, C, H, W], of the UNet's dtype.
        timesteps: [samples], int64.
        text: [samples, length, width].
        wanted: what the UNet should predict, [samples, C, H, W].
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    wanted: torch.Tensor

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The UNet's arguments, by name."""
        return {
            "sample": self.latents,
            "timestep": self.timesteps,
            "encoder_hidden_states": self.text,
        }


class Denoising:
    """How well the models tell the noise of noised pictures, given their sentences.

    Args:
        models: prepared by `training.models.frozen`, what is trained put into them.
        dtype: of the frozen UNet.
        parameters: those that a method has put into the text encoder and the UNet.
    """

    def __init__(
        self, models: Models, dtype: torch.dtype, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self.models = models
        self.dtype = dtype
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._places = {
            part: {
                path: names[id(parameter)]
                for path, parameter in getattr(models, part).named_parameters()
                if id(parameter) in names
            }
            for part in ("text_encoder", "unet")
        }

    def losses(self, parameters: Values, batch: Batch) -> torch.Tensor:
        """The loss of each sample: [samples], float32 (float64 under float64 models).

        Args:
            parameters: taken in the place of those in the models.
        """
        noised = self.noised(parameters, batch)
        prediction = self.predict(parameters, noised)
        return objective.mean_squared_error(prediction, noised.wanted)

    def noised(self, parameters: Values, batch: Batch) -> Noised:
        """What the UNet is given of `batch`, and what it should say."""
        work = torch.promote_types(self.dtype, torch.float32)
        moments, noise = batch.moments.to(work), batch.noise.to(work)
        scheduler = self.models.noise_scheduler
        alphas = scheduler.alphas_cumprod.to(work)[batch.timesteps]
        latents = objective.sample_posterior(
            moments[:, 0],
            moments[:, 1],
            batch.posterior_noise.to(work),
            self.models.vae.config.scaling_factor,
        )
        noisy = objective.add_noise(latents, noise, alphas)
        wanted = objective.target(scheduler.config.prediction_type, latents, noise, alphas)
        text = self._encode(parameters, batch.token_ids) if batch.text is None else batch.text
        return Noised(noisy.to(self.dtype), batch.timesteps, text, wanted)

    def predict(self, parameters: Values, noised: Noised) -> torch.Tensor:
        """What the UNet says: [samples, C, H, W]."""
        # Adapters are float32 in a UNet that may be bfloat16.
        with self._autocast(bool(self._places["unet"])):
            prediction: torch.Tensor = self._call("unet", parameters, **noised.inputs).sample
        return prediction

    @property
    def text_is_fixed(self) -> bool:
        """Whether training changes nothing in the text encoder."""
        return not self._places["text_encoder"]

    @torch.no_grad()
    def encode_each(self, token_ids: torch.Tensor, progress: Callable[[int], None]) -> torch.Tensor:
        """What a text encoder that is not trained makes of sentences.

        Each goes through it alone, so that its numbers do not depend on the others.

        Args:
            token_ids: [sentences, length].
            progress: called with the number of sentences done.

        Returns:
            [sentences, length, width], of the UNet's dtype.
        """
        encoded = []
        for done, ids in enumerate(token_ids, 1):
            encoded.append(self._encode({}, ids[None]))
            progress(done)
        return torch.cat(encoded)

    def _encode(self, parameters: Values, token_ids: torch.Tensor) -> torch.Tensor:
        with self._autocast(True):
            text: torch.Tensor = self._call("text_encoder", parameters, token_ids)[0]
        return text.to(self.dtype)

    def _autocast(self, wanted: bool) -> torch.autocast:
        return torch.autocast(
            "cpu", torch.bfloat16, enabled=wanted and self.dtype == torch.bfloat16
        )

    def _call(self, part: str, parameters: Values, *args: object, **named: object) -> Any:
        module, places = getattr(self.models, part), self._places[part]
        if not places:
            return module(*args, **named)
        values = {path: parameters[name] for path, name in places.items()}
        return functional_call(module, values, args, named)
