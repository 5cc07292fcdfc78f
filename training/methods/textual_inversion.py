"""Textual inversion: the rows of new words, over the text encoder's frozen table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from training.config.run import RunConfig
from training.config.textual_inversion import TextualInversionConfig
from training.data.prompts import prompts_for, refuse_too_many_vectors
from training.method import Method, Sentences, Values
from training.methods.words import ROWS, Words, table_of
from training.models.loading import Models


class TextualInversion(Method):
    """Trains one parameter, `rows`, [num_vectors of each word, width]."""

    config_type: ClassVar[type[RunConfig]] = TextualInversionConfig

    def __init__(self, config: RunConfig, models: Models) -> None:
        assert isinstance(config, TextualInversionConfig)
        self.model, self.learnable_property = config.model, config.learnable_property
        self.validation_prompts = config.validation_prompt or []
        self.words = Words(config.concepts, config.embeds, models, config.keep_embedding_norm)
        self.start = {ROWS: self.words.start}
        self._table: torch.Tensor | None = table_of(models)

    @property
    def token_ids(self) -> list[int]:
        """Of the rows, once the words are in the tokenizer."""
        return self.words.token_ids

    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Add the new words to the tokenizer, and check the prompts to be drawn."""
        self.words.add_tokens(models)
        for tokens in self.words.tokens:
            refuse_too_many_vectors(self.learnable_property, models.tokenizer, tokens)
        self.words.check_prompts(self.validation_prompts, models, notify)

    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """The templates of the paper, a new word in each: of a picture the word of its subfolder.

        Where there is one word alone, any sentence goes with any picture.
        """
        of_word = [prompts_for(self.learnable_property, tokens) for tokens in self.words.tokens]
        texts = tuple(text for texts in of_word for text in texts)
        if captions is None:
            return Sentences(texts)
        folders = [concept.folder for concept in self.words.concepts]
        variants = len(of_word[0])
        own = tuple(folders.index(folder) * variants for folder in captions)
        return Sentences(texts, own, variants)

    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """Put the rows over the text encoder's table."""
        table, self._table = self._table, None
        return {ROWS: self.words.inject(models, table)}

    def project(self, parameters: Values) -> None:
        """Rows keep their length, where that is asked for."""
        self.words.project(parameters[ROWS])

    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write each word's learned_embeds-steps-<step>."""
        self.words.write_step(folder, step, values[ROWS])

    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write each word's learned_embeds, in A1111's form too if asked for."""
        return self.words.write(folder, values[ROWS])

    def learned_models(self, values: Values) -> Models:
        """The run's models, read afresh in float32, with the learned words in them."""
        return self.words.learned_models(self.model, values[ROWS])
