"""The learning rate per step: a pure function, so that there is no scheduler state to save."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.optimization import get_scheduler

from training.config.groups import OptimizationConfig
from training.errors import SharedError


def learning_rate_schedule(
    optimization: OptimizationConfig, base: float, max_train_steps: int
) -> Callable[[int], float]:
    """The learning rate of optimizer step `n` (from 0) under diffusers' own schedules.

    Args:
        base: the rate after warmup, `scale_lr` applied.
        max_train_steps: where a decaying schedule ends.

    Raises:
        SharedError: the schedule does not take such a rate; the function itself raises it where
            AdamW would not.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    try:
        scheduler = get_scheduler(
            optimization.lr_scheduler,
            optimizer=optimizer,
            step_rules=optimization.lr_step_rules,
            num_warmup_steps=optimization.lr_warmup_steps,
            num_training_steps=max_train_steps,
            num_cycles=optimization.lr_num_cycles,
            power=optimization.lr_power,
        )
    except ValueError as error:
        raise SharedError(
            f"lr_scheduler {optimization.lr_scheduler}: does not take learning rate {base:g} "
            f"({error})."
        ) from error
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]

    def rate(step: int) -> float:
        value = base * factor(step)
        refuse_overflow(optimization, value)
        return value

    return rate


def refuse_overflow(optimization: OptimizationConfig, rate: float) -> None:
    """Make sure that what AdamW multiplies by is a number in float32.

    It divides the rate by its first step's bias correction, 1 - beta1, multiplies it by the weight
    decay, and adds epsilon (Loshchilov & Hutter 2019, algorithm 2).

    Raises:
        SharedError: one of them is beyond that.
    """
    beta1, decay = optimization.adam_beta1, optimization.adam_weight_decay
    factors = (rate / (1 - beta1), rate * decay, optimization.adam_epsilon)
    if max(factors) > torch.finfo(torch.float32).max:
        raise SharedError(
            f"learning_rate {rate:g}: is beyond what AdamW can compute with in float32 "
            f"(adam_beta1 {beta1:g}, adam_weight_decay {decay:g}, "
            f"adam_epsilon {optimization.adam_epsilon:g}). Usual rates are from 1e-4 to 1e-2."
        )
