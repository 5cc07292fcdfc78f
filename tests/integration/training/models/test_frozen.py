"""A native text encoder holds what it computes with, and no piece of its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.config.groups import ModelConfig
from training.machine.stack import resolve_stack
from training.models import frozen
from training.models.loading import load_models


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_weights_are_its_own_and_rounded_as_autocast_rounds(
    dtype: torch.dtype, tiny_model: Path
) -> None:
    models = load_models(ModelConfig(pretrained_model_name_or_path=str(tiny_model)), dtype=dtype)
    encoder, ids = models.text_encoder, torch.arange(5)[None]

    def encoded() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            found: torch.Tensor = encoder(ids)[0]
        return found

    wanted = encoded()
    frozen.prepare(models, "native", resolve_stack("upstream"), dtype)
    assert torch.equal(encoded(), wanted)
    assert encoded().dtype == wanted.dtype
    for value in encoder.parameters():
        assert value.untyped_storage().nbytes() == value.nbytes
    linear = [m.weight for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert {weight.dtype for weight in linear} == {dtype}
    assert encoder.get_input_embeddings().weight.dtype == torch.float32
