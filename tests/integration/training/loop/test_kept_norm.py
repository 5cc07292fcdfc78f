"""--keep_embedding_norm: rows turn and do not grow, and a run goes on with it bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import KillAt, run_ranks
from tests.training_fixtures import Flags
from training.models.embeds import load_embeds
from training.textual_inversion import main

STEP = "training.loop.step:TrainingStep.__call__"


def rows(folder: Path) -> torch.Tensor:
    return load_file(folder / "learned_embeds.safetensors")["<new>"]


def test_rows_keep_the_length_that_they_started_with(flags: Flags, tmp_path: Path) -> None:
    first, kept, free = tmp_path / "first", tmp_path / "kept", tmp_path / "free"
    assert main(flags(output_dir=first, num_vectors=2, learning_rate=0.1)) == 0
    start = first / "learned_embeds.safetensors"
    wanted = load_embeds(start).norm(dim=-1)
    again = {"num_vectors": 2, "initializer_token": None, "initial_embeds": start, "seed": 3}
    assert main(flags(output_dir=free, learning_rate=0.1, **again)) == 0
    assert (rows(free).norm(dim=-1) - wanted).abs().min() > 1e-3
    assert main(flags(output_dir=kept, learning_rate=0.1, keep_embedding_norm="true", **again)) == 0
    torch.testing.assert_close(rows(kept).norm(dim=-1), wanted)
    assert (rows(kept) - load_embeds(start)).norm() > 0.1


@pytest.mark.parametrize("size", [1, 2])
def test_killed_and_resumed_is_bit_identical(
    flags: Flags, precision: str, size: int, tmp_path: Path
) -> None:
    def argv(folder: str) -> list[str]:
        return flags(
            output_dir=tmp_path / folder,
            mixed_precision=precision,
            learning_rate=0.1,
            keep_embedding_norm="true",
        )

    assert [p.code for p in run_ranks(argv("whole"), tmp_path / "logs", size)] == [0] * size
    killed = run_ranks(argv("cut"), tmp_path / "logs", size, KillAt(STEP, 4))
    assert killed[0].code == -9
    resumed = run_ranks([*argv("cut"), "--resume_from_checkpoint=latest"], tmp_path / "logs", size)
    assert [p.code for p in resumed] == [0] * size, resumed[0].output
    assert torch.equal(rows(tmp_path / "cut"), rows(tmp_path / "whole"))
