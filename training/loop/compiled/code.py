"""A graph over frozen weights, made into code by inductor: weights packed, operations fused."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._inductor.config as inductor_config
from torch import fx
from torch._inductor.compile_fx import (
    _recursive_joint_graph_passes,
    compile_fx_inner,
    fake_tensor_prop,
)
from torch._inductor.exc import InductorError, InvalidCxxCompiler
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from training.loop.compiled.weights import pack_convolutions

Code = Callable[[list[torch.Tensor]], tuple[torch.Tensor, ...]]
"""Takes a graph's inputs, in a list that it empties; returns its outputs."""


OPTIONS = {"freezing": True, "fx_graph_cache": False}
"""The cache would turn every weight into a list of numbers to hash it."""


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler that inductor can use."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except (InvalidCxxCompiler, InductorError):
        return True
    return False


def compile_graph(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> Code:
    """Code that computes `graph`, for inputs of the shapes of `inputs`.

    What `torch._inductor.compile_fx` does, without tracing the graph a second time for autograd, and
    with the packing of `training.loop.compiled.weights` in the place of inductor's freezing.

    Args:
        graph: of `training.loop.compiled.graph.trace`; changed.

    Raises:
        InductorError: no compiler, or it does not compile what inductor writes.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(value) for value in inputs]
    with inductor_config.patch(OPTIONS), torch.no_grad(), V.set_fake_mode(mode):
        fake_tensor_prop(graph, fakes, True)
        _recursive_joint_graph_passes(graph)
        channels_last = GraphLowering.decide_layout_opt(graph, is_inference=True)
        with unset_fake_temporarily():
            pack_convolutions(graph)
        *_, output = graph.graph.nodes
        output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
        return compile_fx_inner(  # type: ignore[return-value]
            graph, fakes, is_inference=True, layout_opt=channels_last, static_input_idxs=[]
        )
