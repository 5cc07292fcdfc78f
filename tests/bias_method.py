"""A method that this project does not have: it trains one bias vector of the text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from training import atomic_files
from training.config.run import RunConfig, register
from training.method import Method, Sentences, Values
from training.models.loading import Models, load_models
from training.program import run_program

BIAS = "bias"


@register
class BiasConfig(RunConfig):
    """What every run has, and nothing more."""

    method: ClassVar[str] = "bias"

    @property
    def own_files(self) -> tuple[str, ...]:
        """The files that `BiasMethod` writes."""
        return ("bias.*", "bias-steps-*")


def layer(models: Models) -> Any:
    """The text encoder's last normalisation."""
    encoder = models.text_encoder
    return getattr(encoder, "text_model", encoder).final_layer_norm


class BiasMethod(Method):
    """Trains one parameter, [width]."""

    config_type: ClassVar[type[RunConfig]] = BiasConfig

    def __init__(self, config: RunConfig, models: Models) -> None:
        self.config = config
        self.start = {BIAS: layer(models).bias.detach().clone()}

    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Nothing of the models changes."""

    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """Two sentences."""
        return Sentences(("a photo of a toy", "a toy"))

    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """The layer's own bias, trainable."""
        layer(models).bias = nn.Parameter(self.start[BIAS].clone())
        return {BIAS: layer(models).bias}

    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write bias-steps-<step>.safetensors."""
        self._save(folder / f"bias-steps-{step}.safetensors", values)

    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write bias.safetensors."""
        return [self._save(folder / "bias.safetensors", values)]

    def _save(self, path: Path, values: Values) -> Path:
        tensors = {BIAS: values[BIAS].detach().clone()}
        atomic_files.write_file(path, lambda temporary: save_file(tensors, temporary))
        return path

    def learned_models(self, values: Values) -> Models:
        """The base model with the learned bias."""
        models = load_models(self.config)
        with torch.no_grad():
            layer(models).bias.copy_(values[BIAS])
        return models


def main(argv: Sequence[str] | None = None) -> int:
    """Train a bias, as `python -m training.textual_inversion` trains a word."""
    return run_program(BiasConfig, lambda: BiasMethod, argv, "bias", "Trains one bias vector.")
