"""Quantization-aware training: the UNet in 8 bits, taught by itself in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from training.config.quantize import QUANTIZED_NAME, QuantizeConfig
from training.config.run import RunConfig
from training.data.prompts import check_prompt
from training.method import Method, Sentences, Values
from training.models import objective
from training.models.denoising import Batch, Denoising, Noised
from training.models.loading import Models, load_models
from training.models.merge_tokens import highest_with_attention
from training.models.placed import placed
from training.openvino import quantized_unet

UNET = "unet."
"""Begins the names of what is trained; then follows the path in the quantized UNet."""


class Quantize(Method):
    """Trains the UNet's weights and the ranges of its quantizers.

    Until it is calibrated, what it starts from are the UNet's weights alone.
    """

    config_type: ClassVar[type[RunConfig]] = QuantizeConfig

    def __init__(self, config: RunConfig, models: Models) -> None:
        assert isinstance(config, QuantizeConfig)
        self.model, self.quantization = config.model, config.quantization
        quantized_unet.refuse_other_blocks(models.unet)
        if self.quantization.merge_tokens:
            highest_with_attention(models.unet, self.quantization.merge_tokens)
        self.ema_decay = self.quantization.decay
        self.validation_prompts = config.validation_prompt or []
        self.base = quantized_unet.digest(models.unet)
        self.teacher: Any = None
        self.student: Any = None
        self._example: dict[str, torch.Tensor] = {}
        self.start = {
            f"{UNET}{path}": value.detach() for path, value in models.unet.named_parameters()
        }

    @classmethod
    def check_packages(cls) -> None:
        """NNCF."""
        quantized_unet.check_packages("training.quantize")

    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Check the prompts to be drawn."""
        for prompt in self.validation_prompts:
            for line in check_prompt(prompt, models.tokenizer):
                notify(line)

    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """Each caption once, and which is whose."""
        texts = tuple(dict.fromkeys(captions or []))
        return Sentences(texts, tuple(texts.index(caption) for caption in captions or []))

    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """Nothing yet: quantizers need samples."""
        return {}

    def calibrate(
        self, models: Models, samples: Callable[[int], Iterator[Noised]]
    ) -> dict[str, nn.Parameter]:
        """Put a quantized copy in the UNet's place; the UNet itself becomes its teacher."""
        self.teacher = models.unet
        given = [noised.inputs for noised in samples(self.quantization.calibration_samples)]
        self._example = given[0]
        merged = self.quantization.merge_tokens
        self.student = models.unet = quantized_unet.quantize(self.teacher, given, merged)
        parameters = self._parameters()
        weights = self.start  # the teacher's own: no second copy
        self.start = {
            name: weights[plain]
            if (plain := quantized_unet.plain_name(name)) in weights
            else value.detach().clone()
            for name, value in parameters.items()
        }
        return parameters

    def checkpoint_gradients(self, models: Models) -> None:
        """The same for a UNet with NNCF's quantizers in it."""
        quantized_unet.checkpoint_gradients(models.unet)

    def losses(self, denoising: Denoising, parameters: Values, batch: Batch) -> torch.Tensor:
        """The weighted sum of two losses of each sample: against its target, and the teacher."""
        noised = denoising.noised(parameters, batch)
        said = denoising.predict(parameters, noised)
        losses = self.quantization.task_loss_weight * objective.mean_squared_error(
            said, noised.wanted
        )
        weight = self.quantization.distillation_loss_weight
        if weight > 0:
            with torch.no_grad():
                taught = self.teacher(**noised.inputs).sample
            losses = losses + weight * objective.mean_squared_error(said, taught)
        return losses

    def moved(self, values: Values) -> float:
        """The same without a copy of all there is, which is a whole UNet."""
        pairs = [(values[name].detach(), start) for name, start in self.start.items()]
        away = sum(
            float((value - start).square().sum(dtype=torch.float64)) for value, start in pairs
        )
        length = sum(float(start.square().sum(dtype=torch.float64)) for _, start in pairs)
        return math.sqrt(away / length)

    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write quantized_unet-steps-<step>.safetensors."""
        self._save(folder / f"{QUANTIZED_NAME}-steps-{step}.safetensors", values)

    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write quantized_unet.safetensors."""
        return [self._save(folder / f"{QUANTIZED_NAME}.safetensors", values)]

    def _save(self, path: Path, values: Values) -> Path:
        with placed(self._parameters(), values):
            quantized_unet.save(path, self.student, self.quantization.merge_tokens, self.base)
        return path

    def learned_models(self, values: Values) -> Models:
        """The run's models, read afresh in float32, with the UNet's weights rounded to 8 bits.

        diffusers' format has no place for the quantizers of activations, nor for Token Merging.
        """
        models = load_models(self.model)
        with placed(self._parameters(), values):
            rounded = quantized_unet.rounded_weights(self.student, self._example)
            models.unet.load_state_dict(rounded)
        return models

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{UNET}{path}": value
            for path, value in quantized_unet.parameters_of(self.student).items()
        }
