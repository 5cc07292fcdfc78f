"""The training loop, from the state it starts at to the last step: a person can read it down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from training.config.textual_inversion import TextualInversionConfig
from training.errors import SharedError
from training.loop.step import TrainingStep
from training.outputs.progress import StepProgress
from training.outputs.writer import Outputs
from training.storage.checkpoint import State


@dataclass
class Stopped:
    """Set from a signal handler: the loop ends after the step that it is in."""

    signal: int | None = None


def train(
    config: TextualInversionConfig,
    step: TrainingStep,
    learning_rate: Callable[[int], float],
    start: int,
    max_train_steps: int,
    outputs: Outputs,
    progress: StepProgress,
    stopped: Stopped,
) -> int:
    """Do optimizer steps `start` to `max_train_steps`; returns how many are done in all.

    Raises:
        SharedError: the loss is not finite; the last checkpoint is intact.
    """
    rows, optimizer = step.concept.rows, step.optimizer
    draws = step.draws
    fixed = draws.evaluation(config.num_evaluation_samples)
    done = start

    def evaluate() -> None:
        loss = step.evaluate(fixed, config.train_batch_size)
        if not math.isfinite(loss):
            raise _diverged(done, learning_rate(max(0, done - 1)))
        outputs.evaluation(done, loss, rows)

    if start == 0:
        evaluate()
        outputs.samples(0, rows)
    while done < max_train_steps:
        began = time.perf_counter()
        rate = learning_rate(done)
        result = step(done, rate, stop=lambda: stopped.signal is not None)
        if math.isnan(result.loss):
            raise _diverged(done + 1, rate)
        done += 1
        images_per_second = draws.global_batch / (time.perf_counter() - began)
        outputs.step(done, result.loss, rate, images_per_second)
        progress.step(done, f"loss {result.loss:.4f}  {images_per_second:.2f} images/s")
        last = done == max_train_steps

        def due(every: int, done: int = done) -> bool:
            return done % every == 0

        if due(config.evaluation_steps) or last:
            evaluate()
        if due(config.save_steps):
            outputs.embeds(done, rows)
        if due(config.checkpointing_steps) or last or result.stop:
            outputs.checkpoint(state_of(done, rows, optimizer))
        if due(config.validation_steps) or due(config.checkpointing_steps) or last:
            outputs.samples(done, rows)
        if result.stop:
            break
    return done


def _diverged(step: int, rate: float) -> SharedError:
    return SharedError(
        f"the loss is not finite at step {step}: the rows have diverged or a picture "
        f"is broken. The last checkpoint before it is whole. Use a lower --learning_rate "
        f"(now {rate:g}) or --max_grad_norm 1, or --mixed_precision no."
    )


def state_of(done: int, rows: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> State:
    """The state after `done` steps."""
    moments = optimizer.state[rows]
    return State(done, rows.detach(), moments["exp_avg"], moments["exp_avg_sq"])


def restore(state: State, rows: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """Put `state` into the rows and the optimizer, bit for bit."""
    with torch.no_grad():
        rows.copy_(state.rows)
    optimizer.state[rows] = {
        "step": torch.tensor(float(state.step)),
        "exp_avg": state.exp_avg.clone(),
        "exp_avg_sq": state.exp_avg_sq.clone(),
    }
