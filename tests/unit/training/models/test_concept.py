"""The trainable rows over the frozen table are the same as a plain embedding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from training.models.concept import ConceptEmbedding, install

VOCABULARY, WIDTH = 12, 5
PLACES = {
    "right after the table": [12, 13],
    "past the table, with a gap": [14, 12],
    "inside the table": [3, 7],
    "inside, out of order": [11, 0],
    "across its end": [11, 12],
    "one row": [12],
}


def parts(token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCABULARY, WIDTH, generator=generator)
    return table, torch.randn(len(token_ids), WIDTH, generator=generator)


def plain(table: torch.Tensor, rows: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    """The table as the usual script has it: resized, rows put in."""
    whole = torch.zeros(max(len(table), max(token_ids) + 1), table.shape[1])
    whole[: len(table)] = table
    whole[token_ids] = rows
    return whole


@pytest.mark.parametrize("place", PLACES)
def test_forward_and_full_table_are_those_of_a_plain_embedding(place: str) -> None:
    token_ids = PLACES[place]
    table, rows = parts(token_ids)
    embedding = ConceptEmbedding(table, rows, token_ids)
    whole = plain(table, rows, token_ids)
    ids = torch.tensor([[*range(VOCABULARY), *token_ids], [*token_ids, *range(VOCABULARY)]])
    assert torch.equal(embedding(ids), functional.embedding(ids, whole))
    assert torch.equal(embedding.full_table(), whole)


@settings(deadline=None, max_examples=60)
@given(
    ids=st.lists(st.integers(0, 13), min_size=1, max_size=24),
    token_ids=st.lists(st.integers(0, 13), min_size=1, max_size=4, unique=True),
)
def test_gradients_are_those_of_the_same_rows_of_a_plain_embedding(
    ids: list[int], token_ids: list[int]
) -> None:
    table, rows = parts(token_ids)
    embedding = ConceptEmbedding(table, rows, token_ids)
    whole = plain(table, rows, token_ids)
    usable = [i for i in ids if i < VOCABULARY or i in token_ids] or [0]
    whole.requires_grad_()
    weights = torch.arange(1.0, len(usable) + 1)[:, None]
    (functional.embedding(torch.tensor(usable), whole) ** 2 * weights).sum().backward()
    (embedding(torch.tensor(usable)) ** 2 * weights).sum().backward()
    assert whole.grad is not None
    assert embedding.rows.grad is not None
    torch.testing.assert_close(embedding.rows.grad, whole.grad[token_ids])
    assert torch.equal(embedding.table, table)


def test_only_the_rows_are_parameters() -> None:
    table, rows = parts([12, 13])
    embedding = ConceptEmbedding(table, rows, [12, 13])
    ((name, parameter),) = embedding.named_parameters()
    assert name == "rows"
    assert parameter.requires_grad
    assert not embedding.table.requires_grad
    assert list(embedding.state_dict()) == ["rows"]


def test_the_rows_are_copied_and_the_large_table_is_not() -> None:
    table, rows = parts([12])
    embedding = ConceptEmbedding(table, rows, [12])
    with torch.no_grad():
        embedding.rows.add_(1)
    assert torch.equal(rows, parts([12])[1])
    assert embedding.table.data_ptr() == table.data_ptr()


def test_a_text_encoder_with_the_concept_gives_what_a_resized_one_gives() -> None:
    settings = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=6, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    ours, theirs = CLIPTextModel(settings).eval(), CLIPTextModel(settings).eval()
    theirs.load_state_dict(ours.state_dict())
    rows = torch.randn(2, 8)
    theirs.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    table = ours.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    embedding = install(ours, table, rows, [12, 13])
    with torch.no_grad():
        weight = theirs.get_input_embeddings().weight
        assert isinstance(weight, nn.Parameter)
        weight[[12, 13]] = rows
    ids = torch.tensor([[0, 5, 12, 13, 1, 1]])
    assert torch.equal(ours(ids)[0], theirs(ids)[0])
    assert [name for name, p in ours.named_parameters() if p.requires_grad] == [
        name for name, p in ours.named_parameters() if p is embedding.rows
    ]
    ours(ids)[0].sum().backward()
    assert embedding.rows.grad is not None
    assert all(p.grad is None for p in ours.parameters() if p is not embedding.rows)
