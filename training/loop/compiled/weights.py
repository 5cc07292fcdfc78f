"""The weights of frozen convolutions, packed once for the direction in which a graph takes them.

oneDNN computes a convolution with its weight in blocks; PyTorch brings it into these at each call,
forward and backward. Inductor's own freezing packs weights, too, but has each in memory up to three
times meanwhile: for Stable Diffusion 1.5 that took over 15 GB.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._inductor.fx_passes.post_grad import view_to_reshape

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
NO_ACTIVATION: tuple[Any, ...] = ("none", [], "")


@dataclass(frozen=True)
class Packing:
    """What oneDNN packs a convolution's weight for.

    Attributes:
        exchanged: whether its channels are exchanged and its taps reversed before.
        how: padding, output padding where the convolution is transposed, stride, dilation, groups.
        given: shape of the convolution's input.
    """

    exchanged: bool
    how: tuple[Any, ...]
    given: tuple[int, ...]

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution's."""
        return len(self.how) == 5

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight [out, in, *taps] in oneDNN's blocks."""
        values = weight.transpose(0, 1).flip(2, 3) if self.exchanged else weight
        values = values.contiguous(memory_format=torch.channels_last)
        kind = "transpose_weight" if self.transposed else "weight"
        packed: torch.Tensor = getattr(mkldnn, f"_reorder_convolution_{kind}")(
            values, *self.how, list(self.given)
        )
        return packed


def convolve(
    given: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, how: tuple[Any, ...]
) -> torch.Tensor:
    """A convolution by a weight that is packed for it; it has no gradient.

    Args:
        given: float [B, in, H, W], of the weight's dtype, of any B, H and W.
        how: padding, stride, dilation, groups.

    Returns:
        [B, out, H', W'].
    """
    out: torch.Tensor = mkldnn._convolution_pointwise(given, packed, bias, *how, *NO_ACTIVATION)
    return out


Packings = dict[str, tuple[str, Packing]]
"""Of each packed weight, by its name in the graph: the name of what was packed, and how."""


def pack_convolutions(module: fx.GraphModule) -> Packings:
    """Replace convolutions with a constant weight, and their input's gradient, by oneDNN's.

    Args:
        module: of `make_fx`, with shapes in its nodes' "val"; changed.
    """
    packings: Packings = {}
    for node in list(module.graph.nodes) if torch.backends.mkldnn.is_available() else ():
        arguments: Any = node.args
        if node.target is aten.convolution.default and arguments[1].op == "get_attr":
            _pack_forward(module, node, packings)
        elif node.target is aten.convolution_backward.default and arguments[2].op == "get_attr":
            _pack_backward(module, node, packings)
    module.graph.eliminate_dead_code()
    view_to_reshape(module)  # oneDNN's convolutions return their channels last
    module.recompile()
    return packings


def _pack_forward(module: fx.GraphModule, node: fx.Node, packings: Packings) -> None:
    arguments: Any = node.args
    given, weight, bias, stride, padding, dilation, transposed, _, groups = arguments
    if transposed or not _packable(module, weight):
        return
    packing = Packing(False, (padding, stride, dilation, groups), _shape(given))
    new = _convolution(module, node, given, weight, bias, packing, packings)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _pack_backward(module: fx.GraphModule, node: fx.Node, packings: Packings) -> None:
    """The gradient of a convolution's input is a convolution of its output's gradient.

    With stride and dilation 1 the weight's channels are exchanged and its taps reversed; else it is
    the transposed convolution of the same weight.
    """
    arguments: Any = node.args
    gradient, given, weight, _, stride, padding, dilation, transposed, _, groups, wanted = arguments
    if transposed or groups != 1 or wanted[1] or wanted[2] or not _packable(module, weight):
        return
    taps = _value(module, weight).shape[2:]
    if all(number == 1 for number in (*stride, *dilation)):
        around = [tap - 1 - pad for tap, pad in zip(taps, padding, strict=True)]
        packing = Packing(True, (around, stride, dilation, 1), _shape(gradient))
    else:
        sizes, found = _shape(given)[2:], _shape(gradient)[2:]
        more = [
            size - ((out - 1) * step - 2 * pad + dilated * (tap - 1) + 1)
            for size, out, step, pad, dilated, tap in zip(
                sizes, found, stride, padding, dilation, taps, strict=True
            )
        ]
        packing = Packing(False, (padding, more, stride, dilation, 1), _shape(gradient))
    new = _convolution(module, node, gradient, weight, None, packing, packings)
    new.meta["val"] = given.meta["val"]
    for user in list(node.users):
        assert user.target is operator.getitem
        if user.args[1] == 0:
            user.replace_all_uses_with(new)
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _convolution(
    module: fx.GraphModule,
    before: fx.Node,
    given: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    packing: Packing,
    packings: Packings,
) -> fx.Node:
    """A node of oneDNN's convolution of `given`, its weight packed."""
    target = (
        mkldnn._convolution_transpose_pointwise.default
        if packing.transposed
        else mkldnn._convolution_pointwise.default
    )
    name = f"packed_{before.name}"
    module.register_buffer(name, packing.pack(_value(module, weight)))
    packings[name] = (str(weight.target), packing)
    with module.graph.inserting_before(before):
        constant = module.graph.get_attr(name)
        how = (*packing.how, *NO_ACTIVATION)
        new = module.graph.call_function(target, (given, constant, bias, *how))
    new.meta["val"] = before.meta["val"]
    return new


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _packable(module: fx.GraphModule, weight: fx.Node) -> bool:
    """Whether oneDNN computes in the weight's type on this CPU; it takes no float64 anywhere."""
    dtype = _value(module, weight).dtype
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and mkldnn._is_mkldnn_bf16_supported()
    )


def _value(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    return getattr(module, str(node.target)).detach()
