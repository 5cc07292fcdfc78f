"""A graph over frozen weights, made into code by inductor: weights packed, operations fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import fx
from torch._inductor.compile_fx import compile_fx_inner, fake_tensor_prop
from torch._inductor.exc import InductorError, InvalidCxxCompiler
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from training.loop.compiled import store
from training.loop.compiled.weights import pack_convolutions

Code = Callable[[list[torch.Tensor]], Any]
"""Takes a graph's inputs, in a list that it empties; returns its outputs."""

OPTIONS = {"freezing": True, "fx_graph_cache": False}
"""Inductor's cache would turn every weight into a list of numbers, to hash it."""


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler that inductor can use."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except (InvalidCxxCompiler, InductorError):
        return True
    return False


def code_for(
    graph: fx.GraphModule, inputs: list[torch.Tensor], notify: Callable[[str], None]
) -> Code:
    """Code that computes `graph` for inputs of the shapes of `inputs`: kept, or compiled now.

    Args:
        graph: of `training.loop.compiled.graph.trace`; changed.

    Raises:
        InductorError: no compiler, or it does not compile what inductor writes.
        UserError: the folder for what is compiled cannot be written.
    """
    key = store.key_of(graph, inputs)
    store.keep_kernels()
    with store.entry(key, notify) as entry, torch.no_grad():
        channels_last = GraphLowering.decide_layout_opt(graph, is_inference=True)
        pack_convolutions(graph)
        if (kept := entry.load(graph)) is not None:
            notify("compiled code found")
            return kept
        count = len(graph.graph.nodes)
        notify(f"compiling {count} operations, minutes for Stable Diffusion 1.5; kept for later")
        compiled = _compile(graph, inputs, channels_last)
        entry.keep(compiled, graph)
        return compiled


def _compile(graph: fx.GraphModule, inputs: list[torch.Tensor], channels_last: bool) -> Any:
    """What `torch._inductor.compile_fx` does, without tracing a second time for autograd."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(value) for value in inputs]
    with inductor_config.patch(OPTIONS), V.set_fake_mode(mode):
        fake_tensor_prop(graph, fakes, True)
        *_, output = graph.graph.nodes
        output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
        return compile_fx_inner(
            graph, fakes, is_inference=True, layout_opt=channels_last, static_input_idxs=[]
        )
