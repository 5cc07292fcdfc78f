"""LoRA: matrices of low rank beside the frozen weights of the UNet, and of the text encoder.

With new words, too (pivotal tuning, Roich et al. 2021): their rows alone at first, then both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import nn

from training.config.lora import KOHYA_FILE, LORA_NAME, LoraConfig
from training.config.run import RunConfig
from training.data.captions import captions_with_words
from training.data.draws import generator_for
from training.data.prompts import check_prompt
from training.errors import SharedError
from training.method import Method, Sentences, Values
from training.methods.words import ROWS, Words, table_of
from training.models import objective
from training.models.denoising import Batch, Denoising
from training.models.loading import Models, load_models
from training.models.lora.adapters import (
    TEXT_LAYERS,
    add_adapters,
    find_layers,
    fuse_adapters,
    set_weight,
    starting_matrices,
)
from training.models.lora.files import save_kohya, save_lora

TensorType = TypeVar("TensorType", bound=torch.Tensor)


class Lora(Method):
    """Trains two matrices per layer; a name is a part of the model, a layer's path and which.

    And the rows of new words, under one name, where these are asked for.
    """

    config_type: ClassVar[type[RunConfig]] = LoraConfig
    partial_weights: ClassVar[tuple[float, ...]] = (0.5,)

    def __init__(self, config: RunConfig, models: Models) -> None:
        assert isinstance(config, LoraConfig)
        self.model, self.adapter = config.model, config.adapter
        self.snr_gamma, self.prediction_type = config.snr_gamma, config.prediction_type
        self.format = config.lora_format
        self.validation_prompts = config.validation_prompt or []
        layers = {"unet": find_layers(models.unet, self.adapter.lora_layers)}
        if self.adapter.train_text_encoder:
            layers["text_encoder"] = find_layers(models.text_encoder, TEXT_LAYERS)
        # Of a run without a seed of its own every rank, and every part of the run, must know this.
        generator_of = partial(generator_for, config.seed or 0, "adapter")
        self._starts = {
            part: starting_matrices(found, self.adapter.rank, generator_of)
            for part, found in layers.items()
        }
        self.start = _by_part(self._starts)
        self.words, self._table = None, None
        if config.train_text_encoder_ti:
            self.words = Words(config.concepts, config.embeds, models, config.keep_embedding_norm)
            self.start[ROWS] = self.words.start
            self._table = table_of(models)
        self.words_alone = config.max_train_steps_ti if self.words else 0
        self._rows_rate = config.learning_rate_ti / config.learning_rate
        self._tokenizer = models.tokenizer
        self._notify: Callable[[str], None] = lambda text: None

    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Take the prediction type that was asked for, and check the prompts to be drawn."""
        self._notify = notify
        if self.prediction_type is not None:
            models.noise_scheduler.register_to_config(prediction_type=self.prediction_type)
        if self.words is not None:
            self.words.add_tokens(models)
            self.words.check_prompts(self.validation_prompts, models, notify)
            return
        for prompt in self.validation_prompts:
            for line in check_prompt(prompt, models.tokenizer):
                notify(line)

    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """Each caption once, and which is whose; new words in them as all of their rows."""
        captions = list(captions or [])
        if self.words is not None:
            words = self.words.tokens
            captions = captions_with_words(captions, words, self._tokenizer, self._notify)
        texts = tuple(dict.fromkeys(captions))
        return Sentences(texts, tuple(texts.index(caption) for caption in captions))

    def first_step(self, name: str) -> int:
        """The adapters come in once the words have been learned alone."""
        return 0 if name == ROWS else self.words_alone

    def rate_factor(self, name: str) -> float:
        """The words have a learning rate of their own."""
        return self._rows_rate if name == ROWS else 1.0

    def refuse_too_few_steps(self, max_train_steps: int) -> None:
        """Make sure that steps are left for the adapters."""
        if self.words_alone >= max_train_steps:
            raise SharedError(
                f"max_train_steps_ti {self.words_alone}: the new words alone would be learned to "
                f"the end, which is step {max_train_steps}, and no adapter. Give fewer, or more "
                "--max_train_steps."
            )

    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """Put the adapters beside the layers, and the words' rows over the table."""
        table, self._table = self._table, None
        rows = {ROWS: self.words.inject(models, table)} if self.words is not None else {}
        alpha = self.adapter.scale * self.adapter.rank
        parameters = {
            part: add_adapters(
                getattr(models, part), start, self.adapter.rank, alpha, self.adapter.lora_dropout
            )
            for part, start in self._starts.items()
        }
        for row in rows.values():
            row.requires_grad_()  # PEFT has frozen all but its own
        return _by_part(parameters) | rows

    def project(self, parameters: Values) -> None:
        """Rows of words keep their length, where that is asked for."""
        if self.words is not None:
            self.words.project(parameters[ROWS])

    def losses(self, denoising: Denoising, parameters: Values, batch: Batch) -> torch.Tensor:
        """The loss of each sample, weighted by its signal-to-noise ratio where asked for."""
        with torch.random.fork_rng(devices=[], enabled=self.adapter.lora_dropout > 0):
            if self.adapter.lora_dropout > 0:
                torch.manual_seed(_seed_of(batch))
            losses = denoising.losses(parameters, batch)
        if self.snr_gamma is None:
            return losses
        scheduler = denoising.models.noise_scheduler
        alphas = scheduler.alphas_cumprod.to(losses.dtype)[batch.timesteps]
        kind = scheduler.config.prediction_type
        return losses * objective.min_snr_weights(kind, alphas, self.snr_gamma)

    @property
    def loss_settings(self) -> tuple[object, ...]:
        """How the losses are weighted."""
        return (self.snr_gamma,)

    @property
    def draws_randomly(self) -> bool:
        """Whether the adapters have dropout."""
        return self.adapter.lora_dropout > 0

    def set_weight(self, models: Models, weight: float) -> None:
        """Scale the adapters of the UNet and the text encoder."""
        for part in self._starts:
            set_weight(getattr(models, part), weight)

    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write pytorch_lora_weights-steps-<step>.safetensors, and the words' files."""
        self._save(folder / f"{LORA_NAME}-steps-{step}.safetensors", values)
        if self.words is not None:
            self.words.write_step(folder, step, values[ROWS])

    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write pytorch_lora_weights.safetensors, in kohya's form too if asked for; the words."""
        paths = [self._save(folder / f"{LORA_NAME}.safetensors", values)]
        if self.format == "kohya":
            paths.append(folder / KOHYA_FILE)
            save_kohya(paths[-1], _adapters(values), self.adapter.scale, self.adapter.rank)
        return paths + (self.words.write(folder, values[ROWS]) if self.words is not None else [])

    def _save(self, path: Path, values: Values) -> Path:
        save_lora(path, _adapters(values), self.adapter.scale)
        return path

    def learned_models(self, values: Values) -> Models:
        """The run's models, read afresh in float32, the adapters added to their weights."""
        if self.words is not None:
            models = self.words.learned_models(self.model, values[ROWS])
        else:
            models = load_models(self.model)
        for part, start in self._starts.items():
            own = {name: values[f"{part}.{name}"].float() for name in start}
            fuse_adapters(getattr(models, part), own, self.adapter.scale)
        return models


def _by_part(found: dict[str, dict[str, TensorType]]) -> dict[str, TensorType]:
    return {
        f"{part}.{name}": value for part, values in found.items() for name, value in values.items()
    }


def _adapters(values: Values) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if name != ROWS}


def _seed_of(batch: Batch) -> int:
    """What dropout is drawn by: the samples' noise, as that is a function of seed and step."""
    digest = hashlib.blake2b(batch.noise.contiguous().numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
