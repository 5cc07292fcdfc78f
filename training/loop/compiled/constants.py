"""Where the constants of compiled code come from: a later process takes them there, untraced.

Nearly all are weights of the models, as they are or packed. The rest are small tensors that
tracing made, kept by their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx, nn

from training.loop.compiled.weights import Packing, Packings
from training.models.loading import Models

PARTS = ("text_encoder", "unet")
"""What the losses compute with, beside the noise schedule."""
LARGEST = 4096
"""Elements of a constant that is kept by its values; a noise schedule has a thousand."""

Weights = Mapping[str, torch.Tensor]


def weights_of(models: Models) -> dict[str, torch.Tensor]:
    """Every tensor of the text encoder and the UNet, by part and path: "unet.conv_in.weight"."""
    modules: dict[str, nn.Module] = {part: getattr(models, part) for part in PARTS}
    return {
        f"{part}.{path}": value.detach()
        for part, module in modules.items()
        for path, value in [*module.named_parameters(), *module.named_buffers()]
    }


@dataclass(frozen=True)
class Constant:
    """Where one constant comes from.

    Attributes:
        weight: its name in `weights_of`; "": it is none of these.
        packing: how that is packed; None: it is taken as it is.
        values, dtype: what it is, where it is no weight: nested lists.
    """

    weight: str = ""
    packing: Packing | None = None
    values: Any = None
    dtype: str = ""

    def take(self, weights: Weights) -> torch.Tensor:
        """The constant, [shape of the graph's], made of this process's weights.

        Raises:
            KeyError, TypeError: this is not one of these models'.
        """
        if not self.weight:
            return torch.tensor(self.values, dtype=getattr(torch, self.dtype))
        weight = weights[self.weight]
        return weight if self.packing is None else self.packing.pack(weight)


def constants_of(
    graph: fx.GraphModule, packings: Packings, names: list[str], weights: Weights
) -> dict[str, Constant] | None:
    """Where the graph's constants `names` come from; None: of one of them that is not known.

    Args:
        packings: of `pack_convolutions`.
        weights: of the models that the graph was traced with.
    """
    places = {_memory(value): name for name, value in weights.items() if value.numel()}

    def find(name: str) -> Constant | None:
        plain, packing = packings.get(name, (name, None))
        value = getattr(graph, plain).detach()
        if weight := places.get(_memory(value)):
            return Constant(weight, packing)
        if packing is None and value.numel() <= LARGEST and value.is_contiguous():
            return Constant(values=value.tolist(), dtype=str(value.dtype).removeprefix("torch."))
        return None

    found = {name: find(name) for name in names}
    known = {name: constant for name, constant in found.items() if constant is not None}
    return known if len(known) == len(found) else None


def to_json(constants: Mapping[str, Constant]) -> dict[str, Any]:
    """What `from_json` reads."""
    return {name: asdict(constant) for name, constant in constants.items()}


def from_json(kept: Mapping[str, Any]) -> dict[str, Constant]:
    """What `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is something else.
    """
    return {
        name: Constant(**{**fields, "packing": packing and _packing(**packing)})
        for name, fields in kept.items()
        for packing in [fields["packing"]]
    }


def _packing(exchanged: bool, how: list[Any], given: list[int]) -> Packing:
    return Packing(exchanged, tuple(how), tuple(given))


def _memory(value: torch.Tensor) -> tuple[object, ...]:
    """The same for two tensors that are one in memory."""
    return value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
