"""Textual inversion: the rows of a new word, over the text encoder's frozen table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from training.config.run import RunConfig
from training.config.textual_inversion import EMBEDS_NAME, TextualInversionConfig
from training.data.prompts import check_prompt, prompts_for, refuse_too_many_vectors
from training.method import Method, Sentences, Values
from training.models.concept import install
from training.models.embeds import SUFFIXES, save_a1111, save_embeds
from training.models.loading import Models
from training.models.placeholder import add_placeholder, models_with_rows, starting_rows

ROWS = "rows"


class TextualInversion(Method):
    """Trains one parameter, `rows`, [num_vectors, width]."""

    config_type: ClassVar[type[RunConfig]] = TextualInversionConfig

    def __init__(self, config: RunConfig, models: Models) -> None:
        assert isinstance(config, TextualInversionConfig)
        self.model, self.concept, self.embeds = config.model, config.concept, config.embeds
        self.validation_prompts = config.validation_prompt or []
        self.start = {ROWS: starting_rows(self.concept, models)}
        # Taken now: frozen models may hold their weights in another form.
        table = models.text_encoder.get_input_embeddings().weight.detach()
        self._table: torch.Tensor | None = table.clone()
        self.token_ids: list[int] = []

    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Add the new word to the tokenizer, and check the prompts that it is to be drawn in."""
        self.token_ids = add_placeholder(self.concept, models)
        words = self.concept.placeholder_tokens
        refuse_too_many_vectors(self.concept.learnable_property, models.tokenizer, words)
        for prompt in self.validation_prompts:
            for line in check_prompt(prompt, models.tokenizer, words):
                notify(line)

    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """The templates of the paper, the new word in each; captions have no part in it."""
        concept = self.concept
        return Sentences(tuple(prompts_for(concept.learnable_property, concept.placeholder_tokens)))

    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """Put the rows over the text encoder's table."""
        assert self._table is not None
        embedding = install(models.text_encoder, self._table, self.start[ROWS], self.token_ids)
        self._table = None  # 150 MB for Stable Diffusion 1.5, of which the embedding has a copy
        return {ROWS: embedding.rows}

    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write learned_embeds-steps-<step>."""
        self._save(folder, f"{EMBEDS_NAME}-steps-{step}", values)

    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write learned_embeds, in A1111's form too if asked for."""
        paths = [self._save(folder, EMBEDS_NAME, values)]
        if self.embeds.embeds_format == "a1111":
            paths.append(save_a1111(folder, self.concept.placeholder_token, values[ROWS]))
        return paths

    def _save(self, folder: Path, name: str, values: Values) -> Path:
        """Write the rows in the format that was asked for.

        The same file in the other format, left by an earlier part of the run, goes: it would be
        taken for this one.
        """
        kind, other = SUFFIXES if not self.embeds.no_safe_serialization else SUFFIXES[::-1]
        path = folder / f"{name}{kind}"
        save_embeds(path, self.concept.placeholder_token, values[ROWS])
        path.with_suffix(other).unlink(missing_ok=True)
        return path

    def learned_models(self, values: Values) -> Models:
        """The run's models, read afresh in float32, with the learned word in them."""
        return models_with_rows(self.model, self.concept, values[ROWS].detach().float())
