"""Weights of frozen convolutions that are held packed alone, which saves the weights themselves.

Compiled code takes them packed. What else computes with the models, evaluation and pictures, takes
the very same: without a gradient oneDNN computes by the packed weight; with one the weight is
unpacked for the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from training.loop.compiled.constants import PARTS, Constant
from training.loop.compiled.weights import Packing, convolve
from training.models.loading import Models


class PackedAlone:
    """Which of the models' convolutions hold their weight packed alone.

    Args:
        models: native, frozen, their convolutions unpacked.
    """

    def __init__(self, models: Models) -> None:
        self._held: dict[str, tuple[nn.Conv2d, torch.Tensor, tuple[int, ...]]] = {}
        self._fit: dict[str, nn.Conv2d] = {}
        for part in PARTS:
            module: nn.Module = getattr(models, part)
            owners: dict[int, int] = {}
            for _, value in module.named_parameters(remove_duplicate=False):
                owners[id(value)] = owners.get(id(value), 0) + 1
            for path, each in module.named_modules():
                if _is_plain(each) and owners[id(each.weight)] == 1:
                    self._fit[f"{part}.{path}.weight"] = each

    def take(
        self, constants: Mapping[str, Constant], weights: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The constants of code, each made of its weight.

        One weight after the other is let go: neither all of them nor all that is packed of them is
        in memory twice.

        Args:
            weights: of `training.loop.compiled.constants.weights_of`; those that are let go leave
                it.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, RuntimeError: these are not constants
                of these models.
        """
        values: dict[str, torch.Tensor] = {}
        for weight, names in _by_weight(constants).items():
            values.update({name: constants[name].take(weights) for name in names})
            if self._hold(weight, {name: constants[name] for name in names}, values):
                del weights[weight]
        return values

    def adopt(self, constants: Mapping[str, Constant], values: Mapping[str, torch.Tensor]) -> None:
        """Let go what code has packed already.

        Args:
            values: the constants' own.
        """
        for weight, names in _by_weight(constants).items():
            self._hold(weight, {name: constants[name] for name in names}, values)

    def _hold(
        self, weight: str, own: Mapping[str, Constant], values: Mapping[str, torch.Tensor]
    ) -> bool:
        """Let a weight go, if nothing but convolutions takes it, and its own is among them.

        Args:
            own: all that code takes of it.
        """
        module = self._fit.get(weight)
        if module is None or weight in self._held:
            return False
        packings = {name: constant.packing for name, constant in own.items()}
        forward = [name for name, each in packings.items() if each and _is_forward(each, module)]
        if not forward or None in packings.values():
            return False
        packed = values[forward[0]]
        vars(module)["forward"] = _forward(module, packed)
        self._held[weight] = module, packed, module.weight.stride()
        module.weight.data = module.weight.new_empty(1).expand(module.weight.shape)
        return True

    def unpack(self) -> None:
        """Give every convolution its weight back, bit for bit."""
        for module, packed, stride in self._held.values():
            weight = torch.empty_strided(module.weight.shape, stride, dtype=packed.dtype)
            module.weight.data = weight.copy_(packed.to_dense())
            del vars(module)["forward"]
        self._held.clear()


def _by_weight(constants: Mapping[str, Constant]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, constant in constants.items():
        found.setdefault(constant.weight, []).append(name)
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution as PyTorch has it, its weight frozen and in order."""
    return (
        type(module) is nn.Conv2d
        and "forward" not in vars(module)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module.weight.requires_grad
        and any(
            module.weight.is_contiguous(memory_format=order)
            for order in (torch.contiguous_format, torch.channels_last)
        )
    )


def _how(module: nn.Conv2d) -> tuple[Any, ...]:
    padding, stride, dilation = map(list, (module.padding, module.stride, module.dilation))
    return padding, stride, dilation, module.groups


def _is_forward(packing: Packing, module: nn.Conv2d) -> bool:
    return not packing.exchanged and packing.how == _how(module)


def _forward(module: nn.Conv2d, packed: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    how, bias = _how(module), module.bias

    def forward(given: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return module._conv_forward(given, packed.to_dense(), bias)
        return convolve(given.to(packed.dtype), packed, bias, how)

    return forward
