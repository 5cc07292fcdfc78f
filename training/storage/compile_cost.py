"""Whether it repays to compile the training step: a sum of what was measured on this machine.

What compiling gains depends on processor, precision and size, and can be nothing at all: in float32
with AVX512 a step of Stable Diffusion 1.5's size took 8.0 s native and 8.4 s compiled in one hour,
7.9 s and 6.6 s in another (docs/performance.md). So nothing is assumed. What a step takes is kept,
by engine, of every run that is large enough; where both engines' times are known for a run like the
one that begins, `--frozen auto` takes the sum, and elsewhere native.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training import atomic_files
from training.data.inputs import Inputs
from training.errors import UserError
from training.machine.cache_folder import cache_folder
from training.machine.cpu import this_cpu
from training.ranks.launcher import Ranks
from training.storage.kernels import Kernels

ENGINES = ("native", "compiled")
PARAMETERS = 500_000_000
"""A UNet of fewer computes natively: its steps are short, and it would rather start at once."""
PREPARED = "seconds to have the code"
FIGURES = (*ENGINES, PREPARED)


@dataclass(frozen=True)
class Sum:
    """What compiling takes once and saves each time, in seconds, as measured.

    Attributes:
        cost: until the code can be called.
        native, compiled: per step.
        steps: to come.
    """

    cost: float
    native: float
    compiled: float
    steps: int

    @property
    def pays_after(self) -> float:
        """Steps until it has saved what it takes; infinite: never."""
        saved = self.native - self.compiled
        return math.ceil(self.cost / saved) if saved > 0 else math.inf

    @property
    def repays(self) -> bool:
        """Whether there are as many steps."""
        return self.pays_after <= self.steps

    def __str__(self) -> str:
        saved = self.native - self.compiled
        if saved <= 0:
            return (
                f"native: a compiled step took {self.compiled:.2f} s here, "
                f"a native one {self.native:.2f}"
            )
        told = (
            f"about {self.cost:.0f} s to have the code, saves {saved:.2g} s per step (both as "
            f"measured here), pays after {self.pays_after:,.0f}"
        )
        if self.repays:
            return f"compiled: {told} of {self.steps:,} steps"
        return f"native: compiled takes {told} steps, of which {self.steps:,} come"


def is_large(inputs: Inputs) -> bool:
    """Whether a run's model is of a size for which compiling is thought of."""
    unet = inputs.models.unet
    # Buffers: a convolution by the kernel keeps its weights, transformed, in one.
    return sum(value.numel() for value in (*unet.parameters(), *unet.buffers())) >= PARAMETERS


def note(path: Path | None, **figures: float) -> None:
    """Keep figures, by names of `FIGURES`, beside those that are there; where that fails, do not.

    Args:
        path: `place` of the run; None: nothing is kept of it.
    """
    if path is None:
        return
    with contextlib.suppress(OSError, UserError):
        atomic_files.write_text(path, json.dumps({**known(path), **figures}))


def known(path: Path | None) -> dict[str, float]:
    """The figures that are kept; those that are torn are none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {key: float(found[key]) for key in FIGURES if key in found}
    except (OSError, ValueError, TypeError):
        return {}


def place(inputs: Inputs, ranks: Ranks, dtype: torch.dtype, kernels: Kernels) -> Path | None:
    """Where figures of runs like this one are kept on this machine; None: its model is small.

    Args:
        kernels: that the run's steps are computed by, whatever it was started with.
    """
    if not is_large(inputs):
        return None
    config, cpu = inputs.config, this_cpu()
    shapes = {name: list(value.shape) for name, value in inputs.method.start.items()}
    about: list[Any] = [
        str(torch.__version__), cpu.model, cpu.flags, torch.get_num_threads(), ranks.size,
        ranks.local_size, config.method, str(dtype), config.side, config.train_batch_size,
        config.gradient_accumulation_steps, config.gradient_checkpointing,
        kernels.attention, kernels.convolution, inputs.content["settings"], shapes,
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    return cache_folder() / "compiled" / f"{name}.times"


def knowledge(path: Path | None) -> str:
    """What this machine knows of a run like that, to be compared with the others; "": too little.

    Without a C++ compiler, compiled code is nothing to think of.
    """
    found = known(path)
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    return json.dumps(found) if compiler and found.keys() >= set(FIGURES) else ""


def sum_of(said: list[str], steps: int) -> Sum | None:
    """The sum for all ranks: the slowest to have its code, and what their steps take.

    Args:
        said: `knowledge` of each rank's machine.
        steps: to come.

    Returns:
        None: one of them knows too little.
    """
    if not all(said):
        return None
    found = [json.loads(each) for each in said]
    return Sum(
        cost=max(each[PREPARED] for each in found),
        native=min(each["native"] for each in found),
        compiled=max(each["compiled"] for each in found),
        steps=steps,
    )
