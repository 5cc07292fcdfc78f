"""One optimizer step: this rank's samples, one all-reduce of the gradient, AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn

from training.data.draws import Draw, Draws, chunks, share
from training.data.encoded_data import EncodedData
from training.errors import UserError
from training.loop.average import Average
from training.method import Values
from training.models.denoising import Batch
from training.ranks.launcher import Ranks
from training.ranks.process_group import all_reduce_sum

if TYPE_CHECKING:
    from training.loop.compiled.gradients import CompiledGradients


@dataclass(frozen=True)
class StepResult:
    """What a step found, the same on every rank.

    Attributes:
        loss: mean over the global batch.
        stop: whether any rank was asked to stop.
    """

    loss: float
    stop: bool


class TrainingStep:
    """Computes optimizer steps.

    Samples are shared out in order; each rank adds up its own gradient in micro-batches of at
    most `train_batch_size`, and one all-reduce adds the ranks'. Its 4 x (parameters + 2) bytes
    are all that is exchanged per step: gradient, loss, and whether to stop.

    Args:
        losses: the loss of each sample, a pure function of parameters and batch.
        parameters: what is trained, by name.
        optimizer: of these parameters. A group of it may say a `rate_factor`, by which the
            learning rate is multiplied for it.
        ema_decay: of their moving average; None: there is none.
        compiled: what computes losses and gradients in the place of autograd, where it can.
        first_steps: in which a parameter is trained for the first time; of others the first, 0.
            Before that it stays as it is, and nothing of it travels.
        project: brings the parameters back to where they may be, after each optimizer step.
    """

    def __init__(
        self,
        losses: Callable[[Values, Batch], torch.Tensor],
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        data: EncodedData,
        draws: Draws,
        ranks: Ranks,
        accelerator: Accelerator,
        train_batch_size: int,
        max_grad_norm: float | None,
        ema_decay: float | None = None,
        compiled: CompiledGradients | None = None,
        first_steps: Mapping[str, int] | None = None,
        project: Callable[[Values], None] = lambda parameters: None,
    ) -> None:
        self.losses = losses
        self.project = project
        self.parameters = parameters
        self.optimizer = optimizer
        self.data = data
        self.draws = draws
        self.ranks = ranks
        self.accelerator = accelerator
        self.train_batch_size = train_batch_size
        self.max_grad_norm = max_grad_norm
        self.average = None if ema_decay is None else Average(parameters, ema_decay)
        self.compiled = compiled
        self.first_steps = {name: (first_steps or {}).get(name, 0) for name in parameters}
        self._trained = list(parameters.values())
        samples = share(draws.global_batch, ranks.rank, ranks.size)
        self.micro_batches = chunks(samples, train_batch_size)

    def __call__(self, step: int, learning_rate: float, stop: Callable[[], bool]) -> StepResult:
        """Do optimizer step `step` (from 0). A loss that is not finite leaves the parameters alone.

        Args:
            stop: asked once this rank's work is done, whether it wants to stop after it.
        """
        self._choose(step)
        loss = self._accumulate(step)
        gradients = self._gradients()
        flat = torch.cat([*gradients, gradients[0].new_tensor([loss, float(stop())])])
        del gradients  # of a whole UNet they are gigabytes, which AdamW needs
        all_reduce_sum(flat, self.ranks)
        result = StepResult(float(flat[-2]), bool(flat[-1] > 0))
        if math.isfinite(result.loss) and bool(torch.isfinite(flat[:-2]).all()):
            self._take_gradients(flat[:-2])
            del flat
            if self.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(self._trained, self.max_grad_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * group.get("rate_factor", 1.0)
            self.optimizer.step()
            self.project(self.parameters)
            if self.average is not None:
                self.average.update(self.parameters, step)
        else:
            result = StepResult(math.nan, result.stop)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    @property
    def learned(self) -> Values:
        """What is kept of the run: the average, where there is one."""
        return self.parameters if self.average is None else self.average.values

    def _choose(self, step: int) -> None:
        """Only what is trained in a step gets a gradient."""
        for name, value in self.parameters.items():
            value.requires_grad_(step >= self.first_steps[name])
        self._trained = [value for value in self.parameters.values() if value.requires_grad]

    def _accumulate(self, step: int) -> float:
        """Add this rank's gradient to the parameters'; returns its part of the mean loss."""
        total = 0.0
        for micro_batch in self.micro_batches:
            for batch in self.data.batches([self.draws(step, index) for index in micro_batch]):
                found = self.compiled(batch) if self.compiled else None
                total += self._take(*found) if found else self._backward(batch)
        return total

    def _backward(self, batch: Batch) -> float:
        """Add a batch's part of the gradient by autograd; returns its part of the mean loss."""
        loss = self.losses(self.parameters, batch).sum() / self.draws.global_batch
        # accelerate divides by its accumulation steps; here the division is by samples.
        self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)
        return loss.item()

    def _take(self, losses: torch.Tensor, gradients: list[torch.Tensor]) -> float:
        """Add a batch's part of the gradient that is there; returns its part of the mean loss."""
        for value, gradient in zip(self.parameters.values(), gradients, strict=True):
            if value.requires_grad:
                part = gradient / self.draws.global_batch
                value.grad = part if value.grad is None else value.grad + part
        return float(losses.sum()) / self.draws.global_batch

    def compile(self) -> None:
        """Have the code for this rank's first micro-batch, if any is to be."""
        if self.compiled and self.micro_batches:
            for batch in self.data.batches([self.draws(0, i) for i in self.micro_batches[0]]):
                self.compiled.prepare(batch)

    def _gradients(self) -> list[torch.Tensor]:
        """This rank's gradients, flat, in the order of the parameters; zeros if it has no samples.

        Raises:
            UserError: it has samples, and a parameter got no gradient.
        """
        without = [
            name
            for name, value in self.parameters.items()
            if value.requires_grad and value.grad is None
        ]
        if without and self.micro_batches:
            raise UserError(
                f"no gradient has reached the {without[0]}: the prepared UNet or text encoder does "
                "not pass it on. Use --frozen native."
            )
        return [
            (torch.zeros_like(value) if value.grad is None else value.grad).flatten()
            for value in self._trained
        ]

    def _take_gradients(self, flat: torch.Tensor) -> None:
        sizes = [value.numel() for value in self._trained]
        for value, part in zip(self._trained, flat.split(sizes), strict=True):
            value.grad = part.view_as(value).clone()

    @torch.no_grad()
    def evaluate(self, fixed: list[Draw]) -> float:
        """The mean loss of fixed samples, shared among the ranks."""
        samples = share(len(fixed), self.ranks.rank, self.ranks.size)
        total = torch.zeros(1, dtype=torch.float64)
        for micro_batch in chunks(samples, self.train_batch_size):
            for batch in self.data.batches([fixed[i] for i in micro_batch]):
                total += self.losses(self.parameters, batch).sum()
        all_reduce_sum(total, self.ranks)
        return float(total) / len(fixed)
