"""The losses of a batch and their gradient, as one graph of operations without autograd.

As the weights are frozen, both are a pure function of what is trained and of the batch. It is
traced over fake tensors: nothing is computed, and the weights enter the graph as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

from training.method import Values
from training.models.denoising import Batch

Losses = Callable[[Values, Batch], torch.Tensor]


def inputs_of(parameters: Values, batch: Batch) -> list[torch.Tensor]:
    """What the graph is called with: the parameters in their order, then the batch's tensors."""
    tensors = (
        batch.moments, batch.posterior_noise, batch.noise, batch.timesteps, batch.token_ids,
        batch.text,
    )  # fmt: skip
    values = [value.detach() for value in parameters.values()]
    return values + [tensor for tensor in tensors if tensor is not None]


def trace(losses: Losses, parameters: Values, batch: Batch) -> fx.GraphModule:
    """The graph of `losses` and of the gradient of their sum, for the shapes of `batch`.

    Returns:
        A module that takes `inputs_of` and returns the losses, [samples], and a gradient for each
        parameter, of its shape.
    """
    names = list(parameters)

    def losses_and_gradients(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [value.detach().requires_grad_() for value in inputs[: len(names)]]
        with torch.enable_grad():
            found = losses(dict(zip(names, values, strict=True)), Batch(*inputs[len(names) :]))
            gradients = torch.autograd.grad(found.sum(), values)
        return (found.detach(), *gradients)

    traced = make_fx(
        losses_and_gradients,
        decomposition_table=select_decomp_table(),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    with torch.no_grad():
        graph = traced(*inputs_of(parameters, batch))
    _name_each_weight_once(graph)
    graph.recompile()
    return graph


def _name_each_weight_once(module: fx.GraphModule) -> None:
    """Each weight gets one node, however often it is taken."""
    first: dict[Any, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and first.setdefault(node.target, node) is not node:
            node.replace_all_uses_with(first[node.target])
            module.graph.erase_node(node)
