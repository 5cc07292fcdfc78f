"""What a resume takes in memory beside the state itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

from tests.processes import run_ranks
from training.loop.train import restore
from training.ranks.process_group import joined_process_group
from training.storage.checkpoint import State, read_checkpoint, save_checkpoint
from training.storage.resume import on_every_rank
from training.storage.run_directory import RunRecord

NAMES = tuple(f"weight.{number}" for number in range(8))
SIZE = 1 << 20
BYTES = 3 * len(NAMES) * SIZE * 4
"""Of the whole state: 100 MB."""
RECORD = RunRecord(
    seed=1, global_batch=2, learning_rate=1e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip
Result = TypeVar("Result")


def tensors(of: int) -> dict[str, torch.Tensor]:
    """The parameters (0) or one of their moments (1 and 2)."""
    return {name: torch.full((SIZE,), 10.0 * of + n) for n, name in enumerate(NAMES)}


def most_memory(action: Callable[[], Result]) -> tuple[Result, float]:
    """What an action returns; and the most memory that it took in addition, of the state's."""

    def highest() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    Path("/proc/self/clear_refs").write_text("5")
    before = highest()
    result = action()
    return result, (highest() - before) / BYTES


def resume(argv: list[str]) -> int:
    """A rank that goes on from the checkpoint `argv[0]`, which the first one alone reads."""
    parameters = {name: torch.nn.Parameter(torch.ones(SIZE)) for name in NAMES}
    step: Any = SimpleNamespace(
        parameters=parameters,
        average=None,
        optimizer=torch.optim.AdamW(parameters.values()),
        first_steps=dict.fromkeys(NAMES, 0),
    )
    with joined_process_group("gloo", 60, os.environ) as ranks:
        first = ranks.is_main_process
        state, receiving = most_memory(
            lambda: on_every_rank(read_checkpoint(Path(argv[0])) if first else None, ranks)
        )
        assert state is not None
        _, restoring = most_memory(lambda: restore(state, step))
    for n, (name, value) in enumerate(parameters.items()):
        moments = step.optimizer.state[value]
        for of, found in enumerate((value, moments["exp_avg"], moments["exp_avg_sq"])):
            assert torch.equal(found, torch.full((SIZE,), 10.0 * of + n)), (name, of)
        assert moments["step"] == 5
    assert state == State(5, {}, {}, {}, in_file=first)
    print(json.dumps([receiving, restoring]))
    return 0


def test_ranks_hold_one_copy_of_what_they_resume_from(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, State(5, *map(tensors, range(3))), RECORD, None)
    ended = run_ranks([str(path)], tmp_path / "logs", 2, main=f"{__name__}:resume")
    assert [run.code for run in ended] == [0, 0], ended[0].output + ended[1].output
    first, other = (json.loads(run.output.splitlines()[-1]) for run in ended)
    # The first rank's are the file's, through which they are sent; it makes its own moments.
    assert first[0] < 1.2
    assert first[1] < 0.9
    # The other's stay where they were received.
    assert other[0] < 1.2
    assert other[1] < 0.2
