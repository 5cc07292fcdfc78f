"""Other values in the place of parameters, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn


@contextlib.contextmanager
def placed(
    parameters: Mapping[str, nn.Parameter], values: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Let `parameters` hold `values` inside the block; nothing is copied.

    Args:
        values: of the same names, shapes and dtypes.
    """
    before = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = values[name].detach()
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]
