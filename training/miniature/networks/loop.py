"""One training loop for all the networks: AdamW, warmup and linear decay, EMA, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

console = Console()


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns."""

    steps: int
    learning_rate: float
    warmup: int = 100
    decay_share: float = 0.4
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    report_seconds: float = 20.0
    checkpoint_seconds: float = 60.0

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear warmup, a plateau, a linear way down to almost zero.

        The plateau knows nothing of the end: a training that is resumed with more `steps` before
        its way down goes on as if it had been that long from the beginning.
        """
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / (self.steps * self.decay_share))
        return self.learning_rate * min(rise, fall)


def train(
    name: str,
    network: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    schedule: Schedule,
    *,
    batch: int,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[int, nn.Module], str] | None = None,
) -> nn.Module:
    """Train a network in place and leave its averaged (EMA) weights in it.

    `loss_of(generator)` computes the loss (a float32 scalar) of a batch drawn with the given
    generator, which is seeded anew from the step: a resumed training sees the batches it
    would have seen. `report(step, network)` is called with the averaged weights in the
    network. In an initialised process group every rank draws its own batches and the ranks
    step together; only the first reports and writes checkpoints.

    Raises FloatingPointError when the loss or a weight is no longer finite.
    """
    parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
    )
    average = [p.detach().clone() for p in parameters]
    first = 0
    if resume and checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location=parameters[0].device, weights_only=True)
        first = int(state["step"])
        optimizer.load_state_dict(state["optimizer"])
        _copy(state["weights"], parameters)
        _copy(state["average"], average)
        say(f"{name}: resumed at step {first}")
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if ranks > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)
    network.train()
    started, generator = time.perf_counter(), torch.Generator()
    reported = saved = started
    total, count = torch.zeros((), device=parameters[0].device), 0
    for step in range(first, schedule.steps):
        generator.manual_seed((seed * 1_000_003 + step) * ranks + rank)
        torch.manual_seed((seed * 1_000_003 + step) * ranks + rank)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = loss_of(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if ranks > 1:
            _mean_gradients(parameters, ranks)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        # Early on, an average over long would still hold the random start.
        decay = min(schedule.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1.0 - decay)
        # Reading the loss would make a GPU wait at every step; it is read where it is shown.
        total, count, done = total + loss.detach(), count + 1, step + 1
        now, last = time.perf_counter(), step + 1 == schedule.steps
        if last or now - reported >= schedule.report_seconds:
            mean = float(total) / count
            if not math.isfinite(mean):
                raise FloatingPointError(f"{name}: the loss is not finite at step {done}")
            seconds = time.perf_counter() - started
            note = ""
            if report is not None and rank == 0:
                kept = [p.detach().clone() for p in parameters]
                _copy(average, parameters)
                network.eval()
                with torch.no_grad():
                    note = report(done, network)
                network.train()
                _copy(kept, parameters)
            speed = (done - first) * batch * ranks / seconds
            left = (schedule.steps - done) * seconds / (done - first)
            say(
                f"{name} {done}/{schedule.steps}  loss {mean:.4f}  {note}"
                f"  {speed:.0f} images/s  lr {schedule.rate(step):.1e}"
                f"  {timedelta(seconds=round(left))} left"
            )
            total, count, reported = torch.zeros_like(total), 0, time.perf_counter()
        if checkpoint is not None and (last or now - saved >= schedule.checkpoint_seconds):
            if rank == 0:
                state = {
                    "step": done,
                    "optimizer": optimizer.state_dict(),
                    "weights": [p.detach() for p in parameters],
                    "average": average,
                }
                _save(state, checkpoint)
            saved = time.perf_counter()
    _copy(average, parameters)
    return network.eval()


def _save(state: dict[str, Any], checkpoint: Path) -> None:
    if not all(bool(weights.isfinite().all()) for weights in state["weights"]):
        raise FloatingPointError(f"{checkpoint}: not renewed, the weights are no longer finite")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(checkpoint)


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


def say(text: str) -> None:
    """Log a line, once among the ranks."""
    if is_first():
        console.log(text)


def is_first() -> bool:
    """Whether this is the only process, or the first of a group."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _mean_gradients(parameters: list[Tensor], ranks: int) -> None:
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = parameters_to_vector(gradients)
    dist.all_reduce(flat)
    vector_to_parameters(flat.div_(ranks), gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
