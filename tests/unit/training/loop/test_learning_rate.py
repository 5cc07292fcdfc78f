"""The learning rate of a step against stepping diffusers' own scheduler."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from training.config.groups import DECAYING, LrScheduler
from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.loop.learning_rate import learning_rate_schedule

STEPS = 40
BASE = 3e-3


def config(**changes: Any) -> TextualInversionConfig:
    return TextualInversionConfig.model_validate(
        {
            "pretrained_model_name_or_path": "model",
            "train_data_dir": "pictures",
            "placeholder_token": "<new>",
            "initializer_token": "toy",
            "lr_step_rules": "1:10,0.5:25,0.01",
            **changes,
        }
    )


@pytest.mark.parametrize("name", get_args(LrScheduler))
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(("cycles", "power"), [(1, 1.0), (3, 2.0)])
def test_every_schedule_is_that_of_diffusers(
    name: str, warmup: int, cycles: int, power: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    scheduler = get_scheduler(
        name,
        optimizer,
        step_rules="1:10,0.5:25,0.01",
        num_warmup_steps=warmup,
        num_training_steps=STEPS,
        num_cycles=cycles,
        power=power,
    )
    stepped = []
    for _ in range(STEPS):
        stepped.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    rate = learning_rate_schedule(
        config(lr_scheduler=name, lr_warmup_steps=warmup, lr_num_cycles=cycles, lr_power=power),
        BASE,
        STEPS,
    )
    assert [rate(step) for step in range(STEPS)] == pytest.approx(stepped, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", get_args(LrScheduler))
def test_only_decaying_schedules_depend_on_the_number_of_steps(name: str) -> None:
    settings = config(lr_scheduler=name, lr_warmup_steps=3)
    short, long = (learning_rate_schedule(settings, BASE, steps) for steps in (STEPS, 2 * STEPS))
    differ = any(short(step) != long(step) for step in range(STEPS))
    assert differ == (name in DECAYING)


def test_any_step_can_be_asked_for_in_any_order() -> None:
    rate = learning_rate_schedule(config(lr_scheduler="cosine", lr_warmup_steps=5), BASE, STEPS)
    forward = [rate(step) for step in range(STEPS)]
    assert [rate(step) for step in reversed(range(STEPS))] == forward[::-1]
    assert forward[0] == 0
    assert max(forward) == BASE


def test_a_rate_that_the_schedule_cannot_take_is_explained() -> None:
    with pytest.raises(UserError, match="lr_scheduler polynomial"):
        learning_rate_schedule(config(lr_scheduler="polynomial"), 1e-8, STEPS)
