"""Tensors by name, compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def assert_same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """They have the same names, and each the same bits."""
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
