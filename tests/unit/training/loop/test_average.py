"""The moving average of what is trained: diffusers' formula, and a state that holds it."""

from __future__ import annotations

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load, save

from training.loop.average import Average
from training.models.placed import placed
from training.storage.checkpoint import State


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_it_is_that_of_diffusers(decay: float) -> None:
    parameters = {
        "a": torch.nn.Parameter(torch.randn(3, 2)),
        "b": torch.nn.Parameter(torch.ones(1)),
    }
    ours = Average(parameters, decay)
    theirs = EMAModel(parameters.values(), decay=decay)
    for step in range(12):
        with torch.no_grad():
            for value in parameters.values():
                value.add_(torch.randn_like(value))
        ours.update(parameters, step)
        theirs.step(parameters.values())
    for found, wanted in zip(ours.values.values(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not torch.allclose(ours.values["a"], parameters["a"])


def test_values_are_placed_for_a_while_and_the_parameters_come_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    with placed({"a": parameter}, {"a": torch.ones(2)}):
        assert parameter.tolist() == [1, 1]
    assert parameter.tolist() == [0, 0]


@pytest.mark.parametrize("names", [("rows",), ("unet.a", "unet.b")])
def test_a_state_keeps_it(names: tuple[str, ...]) -> None:
    values = [{name: torch.randn(2) for name in names} for _ in range(4)]
    state = State(3, *values)
    again = State.of(3, load(save(state.tensors())))
    for kept, value in zip(
        (again.parameters, again.exp_avg, again.exp_avg_sq, again.average), values, strict=True
    ):
        assert list(kept) == list(names)
        assert all(torch.equal(kept[name], value[name]) for name in names)
    assert again.learned == again.average
    without = State.of(3, load(save(State(3, *values[:3]).tensors())))
    assert without.average == {}
    assert without.learned == without.parameters
