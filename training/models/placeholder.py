"""A new word in a model: its tokens in the tokenizer, its rows in the text encoder's table."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import AddedToken

from training.config.groups import ModelConfig
from training.config.words import Concept
from training.errors import UserError
from training.models.embeds import load_embeds
from training.models.loading import Models, load_models


def starting_rows(concept: Concept, models: Models) -> torch.Tensor:
    """The rows [num_vectors, width], float32, that training starts from.

    Raises:
        UserError: the initializer is neither one token nor as many as there are vectors, or the
            rows of `initial_embeds` are of another shape.
    """
    table = models.text_encoder.get_input_embeddings().weight.detach()
    if concept.initial_embeds is not None:
        rows = load_embeds(concept.initial_embeds)
        if rows.shape != (concept.num_vectors, table.shape[1]):
            raise UserError(
                f"initial_embeds {concept.initial_embeds}: holds {tuple(rows.shape)} rows x width, "
                f"this run needs {(concept.num_vectors, table.shape[1])}; "
                "is it from another base model, or another num_vectors?"
            )
        return rows
    ids = models.tokenizer.encode(concept.initializer_token, add_special_tokens=False)
    if len(ids) not in (1, concept.num_vectors):
        many = f", or {concept.num_vectors} (num_vectors)" if concept.num_vectors > 1 else ""
        fix = (
            "That is the word's own name: give --initializer_token, one for all words or one each"
            if concept.initializer_token == concept.folder
            else "Choose a simpler word"
        )
        raise UserError(
            f"initializer_token {concept.initializer_token!r} is {len(ids)} tokens "
            f"({', '.join(models.tokenizer.convert_ids_to_tokens(ids))}); it must be one{many}. "
            f"{fix}, for example toy."
        )
    return table[ids].repeat(concept.num_vectors // len(ids), 1).float()


def add_placeholder(concept: Concept, models: Models) -> list[int]:
    """Add the new word's tokens to the tokenizer; returns their ids.

    Raises:
        UserError: the placeholder is a token already.
    """
    tokenizer, words = models.tokenizer, concept.placeholder_tokens
    vocabulary = tokenizer.get_vocab()
    taken = [word for word in words if word in vocabulary]
    taken += [word for word in words if word not in taken and f"{word}</w>" in vocabulary]
    if taken:
        raise UserError(
            f"placeholder_token {taken[0]!r} is already a token of this model: choose a word "
            f"that it does not know, for example <{taken[0].strip('<>')}-1>."
        )
    # As they are written: the tokenizer would otherwise look for them in lower case, and the
    # pipeline, which looks for them as they are, would find but the first row of <Dicoo>.
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    ids: list[int] = tokenizer.convert_tokens_to_ids(words)
    return ids


def models_with_rows(model: ModelConfig, words: Iterable[tuple[Concept, torch.Tensor]]) -> Models:
    """The run's models, read afresh in float32, with the learned words in them.

    Args:
        words: each with its rows, [vectors, width].
    """
    models = load_models(model)
    for concept, rows in words:
        token_ids = add_placeholder(concept, models)
        encoder = models.text_encoder
        if len(encoder.get_input_embeddings().weight) < len(models.tokenizer):
            encoder.resize_token_embeddings(len(models.tokenizer), mean_resizing=False)
        with torch.no_grad():
            encoder.get_input_embeddings().weight[token_ids] = rows
    return models
