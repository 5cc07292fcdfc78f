"""Prompts longer than the text encoder takes, encoded in pieces as A1111 does.

Each piece has the beginning and the end that the encoder was trained with, and the pieces'
embeddings are put one behind the other: the UNet's cross-attention takes any number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin


def token_ids(prompt: str, tokenizer: Any) -> list[int]:
    """The ids of a prompt, every word as all its rows, without beginning and end."""
    expanded = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    ids: list[int] = tokenizer(expanded, add_special_tokens=False).input_ids
    return ids


def is_long(prompt: str, tokenizer: Any) -> bool:
    """Whether a prompt is more than the text encoder takes at once."""
    return len(token_ids(prompt, tokenizer)) > tokenizer.model_max_length - 2


def split(ids: Sequence[int], room: int, words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Pieces of at most `room` ids; the rows of a word stay together where they fit in one.

    Args:
        words: the ids of each word's rows.
    """
    rows = {tuple(word) for word in words if 1 < len(word) <= room}
    groups: list[list[int]] = []
    place = 0
    while place < len(ids):
        found = next((row for row in rows if tuple(ids[place : place + len(row)]) == row), None)
        size = len(found) if found else 1
        groups.append(list(ids[place : place + size]))
        place += size
    pieces: list[list[int]] = [[]]
    for group in groups:
        if len(pieces[-1]) + len(group) > room:
            pieces.append([])
        pieces[-1] += group
    return pieces


def encode(
    prompts: Sequence[str], tokenizer: Any, text_encoder: Any, words: Sequence[Sequence[str]]
) -> list[torch.Tensor]:
    """Embeddings of prompts of any length: [1, pieces x model_max_length, width] each.

    All get as many pieces as the longest has; the others' last ones are empty.

    Args:
        words: the tokens of each learned word.
    """
    room = tokenizer.model_max_length - 2
    known = [tokenizer.convert_tokens_to_ids(list(word)) for word in words]
    split_up = [split(token_ids(prompt, tokenizer), room, known) for prompt in prompts]
    most = max(len(pieces) for pieces in split_up)
    return [
        torch.cat(
            [_encode(piece, tokenizer, text_encoder) for piece in _padded(pieces, most)], dim=1
        )
        for pieces in split_up
    ]


def _padded(pieces: list[list[int]], most: int) -> list[list[int]]:
    return pieces + [[] for _ in range(most - len(pieces))]


def _encode(piece: list[int], tokenizer: Any, text_encoder: Any) -> torch.Tensor:
    ids = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
    embeddings: torch.Tensor = text_encoder(torch.tensor([ids]))[0]
    return embeddings
