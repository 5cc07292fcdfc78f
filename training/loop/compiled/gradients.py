"""Losses and gradients by compiled code, made once for each shape of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch._inductor.exc import CppCompileError, InductorError

from training.errors import first_line
from training.loop.compiled.code import Code, code_for
from training.loop.compiled.graph import Losses, inputs_of, trace
from training.method import Values
from training.models.denoising import Batch

Shapes = tuple[torch.Size, ...]


class CompiledGradients:
    """What a training step computes by, in the place of autograd.

    Args:
        losses: the loss of each sample, a pure function of parameters and batch.
        parameters: what is trained; their values are read at each call.
        notify: told what is being compiled, and what cannot be.

    Attributes:
        seconds: that it took to have all code that there is.
    """

    def __init__(self, losses: Losses, parameters: Values, notify: Callable[[str], None]) -> None:
        self._losses, self._parameters, self._notify = losses, parameters, notify
        self._codes: dict[Shapes, Code | None] = {}
        self.seconds = 0.0

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
        """The losses, [samples], and the gradient of their sum for each parameter.

        None: what inductor writes for this shape cannot be compiled here.
        """
        inputs = inputs_of(self._parameters, batch)
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._codes:
            self._codes[shapes] = self._compile(batch, inputs)
        code = self._codes[shapes]
        if code is None:
            return None
        with torch.no_grad():
            losses, *gradients = code(inputs)
        return losses, gradients

    def _compile(self, batch: Batch, inputs: list[torch.Tensor]) -> Code | None:
        size = " x ".join(str(side) for side in batch.noise.shape)
        self._notify(f"tracing the training step for latents of {size}")
        began = time.perf_counter()
        graph = trace(self._losses, self._parameters, batch)
        try:
            code = code_for(graph, inputs, self._notify)
        except (InductorError, CppCompileError) as error:
            self._notify(
                "--frozen compiled: what inductor writes cannot be compiled here, so this runs "
                f"native: {first_line(error)[:300]}\n  It needs g++ and Python's headers (Debian: "
                "g++ and python3-dev)."
            )
            return None
        self.seconds += time.perf_counter() - began
        self._notify(f"the training step is code after {time.perf_counter() - began:.0f} s")
        return code
