"""The new words of a run, whatever else it trains: their tokens, their rows, their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from training.config.groups import ModelConfig
from training.config.words import Concept, LearnedEmbedsConfig
from training.data.prompts import check_prompt
from training.models.concept import install
from training.models.embeds import SUFFIXES, save_a1111, save_embeds
from training.models.loading import Models
from training.models.placeholder import add_placeholder, models_with_rows, starting_rows

ROWS = "rows"
"""The name of their one parameter, [vectors of all words, width]."""


def table_of(models: Models) -> torch.Tensor:
    """The text encoder's table, [vocabulary, width], float32, as it is now.

    Not copied. To be taken when models are loaded: frozen ones may hold their weights in another
    form. For Stable Diffusion 1.5 it has 150 MB.
    """
    table: torch.Tensor = models.text_encoder.get_input_embeddings().weight
    return table.detach()


class Words:
    """New words, whose rows lie one after the other in one parameter.

    Args:
        models: as loaded, in float32.
        keep_norm: whether each row keeps the length that it starts with.

    Attributes:
        start: what the rows start from, float32.
        token_ids: of the rows, once the words are in the tokenizer.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        embeds: LearnedEmbedsConfig,
        models: Models,
        keep_norm: bool = False,
    ) -> None:
        self.concepts, self.embeds, self.keep_norm = concepts, embeds, keep_norm
        self.start = torch.cat([starting_rows(concept, models) for concept in concepts])
        self.token_ids: list[int] = []

    @property
    def tokens(self) -> list[list[str]]:
        """Of each word the tokens that it stands for."""
        return [concept.placeholder_tokens for concept in self.concepts]

    def add_tokens(self, models: Models) -> None:
        """Add the words to the tokenizer.

        Raises:
            UserError: one is a token already.
        """
        for concept in self.concepts:
            self.token_ids += add_placeholder(concept, models)

    def check_prompts(
        self, prompts: Sequence[str], models: Models, notify: Callable[[str], None]
    ) -> None:
        """Check the prompts that the words are to be drawn in.

        Raises:
            UserError: one would not be drawn as it is written.
        """
        for prompt in prompts:
            for line in check_prompt(prompt, models.tokenizer, *self.tokens):
                notify(line)

    def inject(self, models: Models, table: torch.Tensor | None) -> nn.Parameter:
        """Put the rows over the text encoder's table, and freeze the encoder; returns the rows.

        Args:
            table: `table_of` the models as they were loaded; not copied.
        """
        assert table is not None
        return install(models.text_encoder, table, self.start, self.token_ids).rows

    @torch.no_grad()
    def project(self, rows: torch.Tensor) -> None:
        """Scale each row back to its first length, where that is asked for.

        Lengths are taken in float64, so that ranks on unlike processors round to the same rows.
        """
        if not self.keep_norm:
            return
        wanted, found = (each.double().norm(dim=-1, keepdim=True) for each in (self.start, rows))
        rows.mul_(torch.where((wanted > 0) & (found > 0), wanted / found, 1.0).to(rows.dtype))

    def write_step(self, folder: Path, step: int, rows: torch.Tensor) -> None:
        """Write <learned_embeds>-steps-<step> of each word, named as `write` does."""
        for concept, own in self._each(rows):
            self._save(folder, f"{concept.file_stem}-steps-{step}", concept, own)

    def write(self, folder: Path, rows: torch.Tensor) -> list[Path]:
        """Write learned_embeds, of several words learned_embeds.<word>; in A1111's form, too."""
        paths = []
        for concept, own in self._each(rows):
            paths.append(self._save(folder, concept.file_stem, concept, own))
            if self.embeds.embeds_format == "a1111":
                paths.append(save_a1111(folder, concept.placeholder_token, own))
        return paths

    def _each(self, rows: torch.Tensor) -> list[tuple[Concept, torch.Tensor]]:
        sizes = [concept.num_vectors for concept in self.concepts]
        return list(zip(self.concepts, rows.detach().split(sizes), strict=True))

    def _save(self, folder: Path, name: str, concept: Concept, rows: torch.Tensor) -> Path:
        """Write a word's rows in the format that was asked for.

        The same file in the other format, left by an earlier part of the run, goes: it would be
        taken for this one.
        """
        kind, other = SUFFIXES if not self.embeds.no_safe_serialization else SUFFIXES[::-1]
        path = folder / f"{name}{kind}"
        save_embeds(path, concept.placeholder_token, rows)
        (folder / f"{name}{other}").unlink(missing_ok=True)
        return path

    def learned_models(self, model: ModelConfig, rows: torch.Tensor) -> Models:
        """The run's models, read afresh in float32, with the learned words in them."""
        return models_with_rows(model, [(word, own.float()) for word, own in self._each(rows)])
