"""Which precision a run computes in where none is asked for."""

from __future__ import annotations

import pytest
import torch

from training.machine.cpu import Cpu
from training.machine.precision import measured_gain, resolve_dtype
from training.ranks.launcher import Ranks
from training.storage import resume

ICE_LAKE = Cpu("Ice Lake", ("avx2", "avx512f", "avx512_vnni"), 32)
COOPER_LAKE = Cpu("Cooper Lake", ("avx512f", "avx512_bf16"), 28)
SAPPHIRE_RAPIDS = Cpu("Sapphire Rapids", ("avx512f", "amx_bf16", "amx_int8"), 56)


@pytest.mark.parametrize(
    ("asked", "cpu", "gain", "wanted"),
    [
        ("auto", ICE_LAKE, 2.0, torch.float32),
        ("auto", COOPER_LAKE, 1.9, torch.bfloat16),
        ("auto", COOPER_LAKE, 1.1, torch.float32),
        ("auto", SAPPHIRE_RAPIDS, 0.0, torch.bfloat16),
        ("bf16", ICE_LAKE, 0.0, torch.bfloat16),
        ("no", SAPPHIRE_RAPIDS, 2.0, torch.float32),
    ],
)
def test_auto_is_bf16_where_that_is_faster(
    asked: str, cpu: Cpu, gain: float, wanted: torch.dtype
) -> None:
    assert resolve_dtype(asked, cpu, lambda: gain) == wanted


def test_the_gain_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured_gain()
    assert first > 0
    monkeypatch.setattr("torch.nn.functional.linear", None)
    assert measured_gain() == first


@pytest.mark.parametrize(
    ("neighbour", "wanted"),
    [("bfloat16", torch.bfloat16), ("float32", torch.float32)],
)
def test_ranks_compute_in_bf16_where_it_suits_all_of_them(
    neighbour: str, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "this_cpu", lambda: SAPPHIRE_RAPIDS)
    monkeypatch.setattr(resume, "every_rank", lambda text, ranks: [text, neighbour])
    assert resume.common_dtype("auto", Ranks("mpirun", 0, 2, 0, 2)) == wanted
