"""The training loop, from the first step to the last."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from training.config.groups import OutputsConfig, ValidationConfig
from training.errors import SharedError, UserError
from training.loop.step import TrainingStep
from training.loop.stop_signal import StopSignal
from training.method import Values
from training.models.placed import placed
from training.outputs.progress import StepProgress
from training.outputs.ticking import ticking
from training.outputs.writer import Outputs
from training.storage.checkpoint import State

COPIED_BYTES = 2**28
"""A copy of more, such as of a whole UNet, is not made for the sake of an earlier first step."""


def train(
    saving: OutputsConfig,
    validation: ValidationConfig,
    step: TrainingStep,
    learning_rate: Callable[[int], float],
    start: int,
    max_train_steps: int,
    outputs: Outputs,
    progress: StepProgress,
    stop_signal: StopSignal,
) -> int:
    """Do optimizer steps `start` to `max_train_steps`; returns how many are done in all.

    Raises:
        SharedError: the loss is not finite; the last checkpoint is intact.
    """
    learned, draws = step.learned, step.draws
    fixed = draws.evaluation(validation.num_evaluation_samples)
    done = start

    def evaluate(at: int, values: Values) -> None:
        with placed(step.parameters, values), ticking(progress.wait, "measuring the loss"):
            loss = step.evaluate(fixed)
        if not math.isfinite(loss):
            raise _diverged(at, learning_rate(max(0, at - 1)))
        outputs.evaluation(at, loss, values)

    def draw(at: int, values: Values) -> None:
        with placed(step.parameters, values):
            outputs.samples(at, values)

    # A person waits for the first step, so where training starts is looked at after it.
    beginning = _copies(learned) if start == 0 and _is_small(learned) else None
    if start == 0 and beginning is None:
        evaluate(0, learned)
        draw(0, learned)
    while done < max_train_steps:
        began = time.perf_counter()
        rate = learning_rate(done)
        with _first_ticks(done == start, progress):
            result = step(done, rate, stop=lambda: stop_signal.received)
        if math.isnan(result.loss):
            raise _diverged(done + 1, rate)
        done += 1
        images_per_second = draws.global_batch / (time.perf_counter() - began)
        outputs.step(done, result.loss, rate, images_per_second)
        progress.step(done, f"loss {result.loss:.4f}  {images_per_second:.2f} images/s")
        if beginning is not None:
            evaluate(0, beginning)
            draw(0, beginning)
            beginning = None
        outputs.track(done, result.loss, rate)
        last = done == max_train_steps

        def due(every: int, done: int = done) -> bool:
            return done % every == 0

        if due(validation.evaluation_steps) or last:
            evaluate(done, learned)
        if due(saving.save_steps):
            outputs.learned(done, learned)
        if due(saving.checkpointing_steps) or last or result.stop:
            outputs.checkpoint(state_of(done, step))
        if due(validation.validation_steps) or due(saving.checkpointing_steps) or last:
            draw(done, learned)
        if result.stop:
            break
    return done


def _first_ticks(first: bool, progress: StepProgress) -> AbstractContextManager[None]:
    """The first step sets kernels up, and nothing tells yet how long one takes."""
    return ticking(progress.wait, "the first step") if first else contextlib.nullcontext()


def _is_small(values: Values) -> bool:
    return sum(value.nbytes for value in values.values()) <= COPIED_BYTES


def _copies(values: Values) -> Values:
    return {name: value.detach().clone() for name, value in values.items()}


def _diverged(step: int, rate: float) -> SharedError:
    return SharedError(
        f"the loss is not finite at step {step}: what is trained has diverged or a picture "
        f"is broken. The last checkpoint before it is whole. Use a lower --learning_rate "
        f"(now {rate:g}) or --max_grad_norm 1, or --mixed_precision no."
    )


def state_of(done: int, step: TrainingStep) -> State:
    """The state after `done` steps; the moments of what is not trained yet are zeros."""

    def moments(kind: str) -> dict[str, torch.Tensor]:
        state = step.optimizer.state
        return {
            name: state[value][kind] if value in state else torch.zeros_like(value)
            for name, value in step.parameters.items()
        }

    values = {name: value.detach() for name, value in step.parameters.items()}
    average = {} if step.average is None else step.average.values
    return State(done, values, moments("exp_avg"), moments("exp_avg_sq"), average)


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def restore(state: State, step: TrainingStep) -> None:
    """Move `state` into the parameters and the optimizer, bit for bit; it is left with its step.

    What has been moved is let go at once: of a whole UNet a state is gigabytes.

    Raises:
        UserError: it is of other parameters.
    """
    shapes = {name: value.shape for name, value in step.parameters.items()}
    averaged = step.average is not None
    if shapes != {
        name: value.shape for name, value in state.parameters.items()
    } or averaged != bool(state.average):
        raise UserError(
            f"checkpoint-{state.step}: holds {', '.join(state.parameters)}, this run trains "
            f"{', '.join(shapes)}, or they differ in shape. Choose another --output_dir."
        )
    moved = torch.clone if state.in_file else _as_it_is
    for name, value in step.parameters.items():
        with torch.no_grad():
            value.copy_(state.parameters.pop(name))
            if step.average is not None:
                step.average.values[name].copy_(state.average.pop(name))
        step.optimizer.state[value] = {
            "step": torch.tensor(float(max(0, state.step - step.first_steps[name]))),
            "exp_avg": moved(state.exp_avg.pop(name)),
            "exp_avg_sq": moved(state.exp_avg_sq.pop(name)),
        }
