"""The new word's embedding rows, trainable, over the text encoder's frozen table.

The usual way trains the whole table and restores it after every step; here the table is a
buffer and only the rows are parameters, so the gradient, the optimizer and what travels
between ranks are a few kilobytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ConceptEmbedding(nn.Module):
    """Takes the place of a text encoder's token embedding.

    Args:
        table: [vocabulary, width], the frozen rows; not copied.
        rows: [vectors, width], the starting value of the trainable rows.
        token_ids: the ids of the placeholder tokens, in the order of `rows`. They may lie
            past the table or inside it (a table padded beyond its tokenizer).
    """

    table: torch.Tensor
    slots: torch.Tensor

    def __init__(self, table: torch.Tensor, rows: torch.Tensor, token_ids: list[int]) -> None:
        super().__init__()
        slots = torch.full((max(len(table), max(token_ids) + 1),), -1)
        slots[torch.tensor(token_ids)] = torch.arange(len(token_ids))
        self.register_buffer("table", table.detach(), persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        self.rows = nn.Parameter(rows.detach().clone())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed `input_ids` (int64, any shape) -> [..., width]."""
        slot = self.slots[input_ids]
        frozen = F.embedding(input_ids.clamp(max=len(self.table) - 1), self.table)
        learned = F.embedding(slot.clamp(min=0), self.rows)
        return torch.where((slot >= 0).unsqueeze(-1), learned, frozen)

    def full_table(self) -> torch.Tensor:
        """[vocabulary, width]: the table as a plain embedding would hold it, rows in place."""
        table = torch.zeros(len(self.slots), self.table.shape[1], dtype=self.table.dtype)
        table[: len(self.table)] = self.table
        table[self.slots >= 0] = self.rows.detach()[self.slots[self.slots >= 0]].to(table.dtype)
        return table


def install(
    text_encoder: nn.Module, table: torch.Tensor, rows: torch.Tensor, token_ids: list[int]
) -> ConceptEmbedding:
    """Freeze `text_encoder`, put a `ConceptEmbedding` in place of its table, and return it."""
    text_encoder.requires_grad_(False)
    embedding = ConceptEmbedding(table, rows, token_ids)
    text_encoder.set_input_embeddings(embedding)  # type: ignore[operator]
    return embedding
