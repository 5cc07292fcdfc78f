"""A graph over frozen weights, made into code by inductor: weights packed, operations fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import fx
from torch._inductor.compile_fx import compile_fx_inner, fake_tensor_prop
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from training.loop.compiled import store
from training.loop.compiled.code import Code, load
from training.loop.compiled.constants import constants_of, to_json, weights_of
from training.loop.compiled.identity import SMALL, digest, form, machine
from training.loop.compiled.packed_alone import PackedAlone
from training.loop.compiled.weights import pack_convolutions
from training.models.loading import Models

OPTIONS = {"freezing": True, "fx_graph_cache": False}
"""Inductor's cache would turn every weight into a list of numbers, to hash it."""


def lower(
    step: str,
    graph: fx.GraphModule,
    inputs: list[torch.Tensor],
    models: Models,
    packed: PackedAlone,
    notify: Callable[[str], None],
) -> Code:
    """Code that computes `graph` for inputs of these shapes: that which is kept, or compiled now.

    Args:
        step: a digest, under which is kept where the code's constants come from.
        graph: of `training.loop.compiled.graph.trace`; changed.
        models: that it was traced with; those of their weights that it has packed are let go.
        packed: lets them go.

    Raises:
        InductorError: no compiler, or it does not compile what inductor writes.
    """
    key = key_of(graph, inputs)
    channels_last = GraphLowering.decide_layout_opt(graph, is_inference=True)
    packings = pack_convolutions(graph)
    code, constants = _kept(key, graph, notify)
    if code is None:
        count = len(graph.graph.nodes)
        notify(f"compiling {count} operations, minutes for Stable Diffusion 1.5; kept for later")
        code = _compile(graph, inputs, channels_last)
        constants = _names(code, graph)
        if constants is not None:
            store.write(key, {"source": code.source_code, "constants": constants})
    if constants is not None:
        places = constants_of(graph, packings, list(constants.values()), weights_of(models))
        if places is not None:
            own = {name: places[constant] for name, constant in constants.items()}
            store.write(step, {"code": key, "constants": to_json(own)})
            packed.adopt(own, {name: getattr(graph, place) for name, place in constants.items()})
    return code


def key_of(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> str:
    """A digest of what code for `graph` depends on: operations, shapes, versions, CPU, threads."""
    parts = [*machine(), graph.code, [form(value) for value in inputs]]
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target).detach()
            numbers = value.tolist() if value.numel() <= SMALL else ()
            parts.append((node.target, form(value), numbers))
    return digest(["graph", *parts])


def _kept(
    key: str, graph: fx.GraphModule, notify: Callable[[str], None]
) -> tuple[Any, dict[str, str] | None]:
    """Code for this graph, made from another step of the same operations, and its constants."""
    try:
        if (kept := store.read(key)) is None:
            return None, None
        constants: dict[str, str] = kept["constants"]
        own = {name: getattr(graph, place) for name, place in constants.items()}
        code = load(kept["source"], own, notify)
    except (store.CannotUse, AttributeError) as error:
        notify(f"--frozen compiled: {error}: compiled again")
        return None, None
    notify("compiled code found")
    return code, constants


def _names(code: Any, graph: fx.GraphModule) -> dict[str, str] | None:
    """Of each of the code's constants its name in the graph; None: one is not the graph's."""
    own = {id(value): name for name, value in graph.named_buffers()}
    own |= {id(value): name for name, value in graph.named_parameters()}
    names = {name: own[id(each)] for name, each in code.constants.items() if id(each) in own}
    return names if len(names) == len(code.constants) else None


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
