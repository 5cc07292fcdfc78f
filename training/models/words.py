"""Learned words from files, put into a model: diffusers' files, A1111's and kohya's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AddedToken

from training.errors import UserError
from training.models.embeds import A1111_KEY, load_named_embeds
from training.models.loading import Models

FLAG = "--embeds"


def tokens_of(word: str, vectors: int) -> list[str]:
    """The tokens that a word stands for, one per row, as diffusers names them."""
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]


def word_in(path: Path) -> str:
    """How the word of a file is written: the name that is in it, else the file's own.

    A1111 and kohya call every word alike inside the file, and write the file's name in prompts.

    Raises:
        UserError: the file cannot be read, or holds no word.
    """
    name, _ = load_named_embeds(path, FLAG)
    return path.stem if name in (A1111_KEY, "*") else name


def add_words(models: Models, words: Sequence[tuple[str, Path]]) -> list[list[str]]:
    """Put words into the tokenizer and the text encoder's table; returns each one's tokens.

    Args:
        words: as each is written in prompts, and the file with its rows.

    Raises:
        UserError: a file cannot be read, is of another base model, or holds a word that is known.
    """
    encoder, tokenizer = models.text_encoder, models.tokenizer
    width = encoder.get_input_embeddings().weight.shape[1]
    added = []
    for word, path in words:
        _, rows = load_named_embeds(path, FLAG)
        if rows.shape[1] != width:
            raise UserError(
                f"{FLAG} {path}: its rows are {rows.shape[1]} wide, this model's text encoder "
                f"takes {width}: the word was learned with another base model."
            )
        tokens = tokens_of(word, len(rows))
        vocabulary = tokenizer.get_vocab()
        taken = [token for token in tokens if token in vocabulary or f"{token}</w>" in vocabulary]
        if taken:
            raise UserError(
                f"{FLAG} {path}: {taken[0]!r} is already a token of this model: give the word "
                f"another name, for example {FLAG} '<{word.strip('<>')}-1>={path}'."
            )
        # As they are written (see training.models.placeholder.add_placeholder).
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
        if len(encoder.get_input_embeddings().weight) < len(tokenizer):
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            ids = tokenizer.convert_tokens_to_ids(tokens)
            encoder.get_input_embeddings().weight[ids] = rows
        added.append(tokens)
    return added
