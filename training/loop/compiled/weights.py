"""The weights of frozen convolutions, packed once for the direction in which a graph takes them.

oneDNN computes a convolution with its weight in blocks; PyTorch brings it into these at each call,
forward and backward. Inductor's own freezing packs weights, too, but has each in memory up to three
times meanwhile: for Stable Diffusion 1.5 that took over 15 GB.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._inductor.fx_passes.post_grad import view_to_reshape

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
NO_ACTIVATION: tuple[Any, ...] = ("none", [], "")


def pack_convolutions(module: fx.GraphModule) -> None:
    """Replace convolutions with a constant weight, and their input's gradient, by oneDNN's.

    Args:
        module: of `make_fx`, with shapes in its nodes' "val"; changed.
    """
    for node in list(module.graph.nodes) if torch.backends.mkldnn.is_available() else ():
        arguments: Any = node.args
        if node.target is aten.convolution.default and arguments[1].op == "get_attr":
            _pack_forward(module, node)
        elif node.target is aten.convolution_backward.default and arguments[2].op == "get_attr":
            _pack_backward(module, node)
    module.graph.eliminate_dead_code()
    view_to_reshape(module)  # oneDNN's convolutions return their channels last
    module.recompile()


def _pack_forward(module: fx.GraphModule, node: fx.Node) -> None:
    arguments: Any = node.args
    given, weight, bias, stride, padding, dilation, transposed, _, groups = arguments
    if transposed or not _packable(module, weight):
        return
    how = (padding, stride, dilation, groups)
    new = _convolution(module, node, given, _value(module, weight), bias, how)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _pack_backward(module: fx.GraphModule, node: fx.Node) -> None:
    """The gradient of a convolution's input is a convolution of its output's gradient.

    With stride and dilation 1 the weight's channels are exchanged and its taps reversed; else it is
    the transposed convolution of the same weight.
    """
    arguments: Any = node.args
    gradient, given, weight, _, stride, padding, dilation, transposed, _, groups, wanted = arguments
    if transposed or groups != 1 or wanted[1] or wanted[2] or not _packable(module, weight):
        return
    values = _value(module, weight)
    taps = values.shape[2:]
    if all(number == 1 for number in (*stride, *dilation)):
        around = [tap - 1 - pad for tap, pad in zip(taps, padding, strict=True)]
        reversed_taps = values.transpose(0, 1).flip(2, 3)
        new = _convolution(
            module, node, gradient, reversed_taps, None, (around, stride, dilation, 1)
        )
    else:
        sizes, found = given.meta["val"].shape[2:], gradient.meta["val"].shape[2:]
        more = [
            size - ((out - 1) * step - 2 * pad + dilated * (tap - 1) + 1)
            for size, out, step, pad, dilated, tap in zip(
                sizes, found, stride, padding, dilation, taps, strict=True
            )
        ]
        new = _convolution(
            module, node, gradient, values, None, (padding, more, stride, dilation, 1)
        )
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
    weight: torch.Tensor,
    bias: fx.Node | None,
    how: tuple[Any, ...],
) -> fx.Node:
    """A node of oneDNN's convolution of `given`; transposed where `how` has output padding."""
    values = weight.contiguous(memory_format=torch.channels_last)
    if len(how) == 5:
        pack = mkldnn._reorder_convolution_transpose_weight
        target = mkldnn._convolution_transpose_pointwise.default
    else:
        pack = mkldnn._reorder_convolution_weight
        target = mkldnn._convolution_pointwise.default
    name = f"packed_{before.name}"
    packed = pack(values, *how, list(given.meta["val"].shape))
    module.register_buffer(name, packed)
    with module.graph.inserting_before(before):
        constant = module.graph.get_attr(name)
        new = module.graph.call_function(target, (given, constant, bias, *how, *NO_ACTIVATION))
    new.meta["val"] = before.meta["val"]
    return new


def _packable(module: fx.GraphModule, weight: fx.Node) -> bool:
    """Whether oneDNN computes in the weight's type on this CPU; it takes no float64 anywhere."""
    dtype = _value(module, weight).dtype
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and mkldnn._is_mkldnn_bf16_supported()
    )


def _value(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    return getattr(module, str(node.target)).detach()
