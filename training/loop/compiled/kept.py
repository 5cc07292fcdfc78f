"""The code of a training step: that which is kept, over this process's weights, or made now."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from training.errors import first_line
from training.loop.compiled import store
from training.loop.compiled.code import Code, load
from training.loop.compiled.constants import from_json, weights_of
from training.loop.compiled.packed_alone import PackedAlone
from training.models.loading import Models


def code_for(
    step: str,
    models: Models,
    packed: PackedAlone,
    trace: Callable[[], fx.GraphModule],
    inputs: list[torch.Tensor],
    notify: Callable[[str], None],
) -> Code:
    """Code that computes a step for inputs of the shapes of `inputs`: kept, or compiled now.

    Args:
        step: a digest of all that decides what `trace` finds.
        models: that the step computes with, unpacked; some of their weights are let go.
        packed: lets them go.
        trace: gives the graph, of `training.loop.compiled.graph`.

    Raises:
        InductorError: no compiler, or it does not compile what inductor writes.
        UserError: the folder for what is compiled cannot be written.
    """
    store.keep_kernels()
    with torch.no_grad():
        code = _found(step, models, packed, notify)
        if code is None:
            with store.held(step, notify) as waited:
                if waited:
                    code = _found(step, models, packed, notify)
                if code is None:
                    from training.loop.compiled.lowering import lower  # seconds to import

                    code = lower(step, trace(), inputs, models, packed, notify)
    return code


def _found(
    step: str, models: Models, packed: PackedAlone, notify: Callable[[str], None]
) -> Code | None:
    """As `_kept`; of what cannot be used a line is said."""
    try:
        code = _kept(step, models, packed, notify)
    except store.CannotUse as error:
        packed.unpack()
        notify(f"--frozen compiled: {error}: the step is traced again")
        return None
    if code is not None:
        notify("compiled code found")
    return code


def _kept(
    step: str, models: Models, packed: PackedAlone, notify: Callable[[str], None]
) -> Code | None:
    """Code that an earlier process has made, over this process's weights; None: none is kept.

    Raises:
        CannotUse: what is kept cannot be used.
    """
    if (kept := store.read(step)) is None or (code := store.read(kept["code"])) is None:
        return None
    try:
        constants = packed.take(from_json(kept["constants"]), weights_of(models))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise store.CannotUse(f"what is kept is of another model ({first_line(error)})") from error
    return load(code["source"], constants, notify)
