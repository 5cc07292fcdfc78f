"""Losses and gradients by compiled code, made once for each shape of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import fx
from torch._inductor.exc import CppCompileError, InductorError

from training.errors import first_line
from training.loop.compiled.code import Code
from training.loop.compiled.graph import Losses, inputs_of, trace
from training.loop.compiled.identity import identity_of
from training.loop.compiled.kept import code_for
from training.loop.compiled.packed_alone import PackedAlone
from training.method import Values
from training.models.denoising import Batch
from training.models.loading import Models
from training.outputs.ticking import ticking

Shapes = tuple[torch.Size, ...]


class CompiledGradients:
    """What a training step computes by, in the place of autograd.

    Args:
        losses: the loss of each sample, a pure function of parameters and batch.
        parameters: what is trained; their values are read at each call.
        models: that `losses` compute with, `parameters` in them.
        settings: what else `losses` compute by.
        notify: told what is being compiled, and what cannot be.

    Attributes:
        seconds: that it took to have all code that there is.
    """

    def __init__(
        self,
        losses: Losses,
        parameters: Values,
        models: Models,
        settings: Sequence[object],
        notify: Callable[[str], None],
    ) -> None:
        self._losses, self._parameters, self._notify = losses, parameters, notify
        self._models, self._settings = models, settings
        self._packed = PackedAlone(models)
        self._codes: dict[Shapes, Code | None] = {}
        self.seconds = 0.0

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
        """The losses, [samples], and the gradient of their sum for each parameter.

        None: what inductor writes for this shape cannot be compiled here.
        """
        inputs = inputs_of(self._parameters, batch)
        with self._told(inputs):
            code = self._code(batch, inputs)
        if code is None:
            return None
        with torch.no_grad():
            losses, *gradients = code(inputs)
        return losses, gradients

    def _told(self, inputs: list[torch.Tensor]) -> AbstractContextManager[None]:
        """In the middle of a run nobody else tells what takes so long."""
        known = _shapes(inputs) in self._codes
        what = "preparing the training step for another size"
        return nullcontext() if known else ticking(self._notify, what)

    def prepare(self, batch: Batch) -> None:
        """Have the code for batches of this shape, without computing anything by it."""
        self._code(batch, inputs_of(self._parameters, batch))

    def _code(self, batch: Batch, inputs: list[torch.Tensor]) -> Code | None:
        shapes = _shapes(inputs)
        if shapes not in self._codes:
            self._codes[shapes] = self._compile(batch, inputs)
        return self._codes[shapes]

    def _compile(self, batch: Batch, inputs: list[torch.Tensor]) -> Code | None:
        size = " x ".join(str(side) for side in batch.noise.shape)

        def traced() -> fx.GraphModule:
            self._notify(f"tracing the training step for latents of {size}")
            return trace(self._losses, self._parameters, batch)

        self._notify(f"looking for the code of the training step for latents of {size}")
        began = time.perf_counter()
        self._packed.unpack()
        step = identity_of(self._models, self._parameters, self._settings, inputs)
        try:
            code = code_for(step, self._models, self._packed, traced, inputs, self._notify)
        except (InductorError, CppCompileError) as error:
            self._packed.unpack()
            self._notify(
                "--frozen compiled: what inductor writes cannot be compiled here, so this runs "
                f"native: {first_line(error)[:300]}\n  It needs g++ and Python's headers (Debian: "
                "g++ and python3-dev)."
            )
            return None
        self.seconds += time.perf_counter() - began
        self._notify(f"the training step is code after {time.perf_counter() - began:.0f} s")
        return code


def _shapes(inputs: list[torch.Tensor]) -> Shapes:
    return tuple(value.shape for value in inputs)
