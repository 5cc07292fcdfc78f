"""Who a process is among the ranks, as each launcher's environment says it."""

from __future__ import annotations

import pytest

from training.ranks.launcher import Ranks, read_environment
from training.ranks.threads import omp_num_threads

INTEL = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
OPEN = {
    "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "6",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, Ranks("no launcher", 0, 1, 0, 1)),
        (INTEL, Ranks("Intel MPI", 3, 4, 1, 2)),
        (OPEN, Ranks("Open MPI", 2, 6, 0, 2)),
        (TORCHRUN, Ranks("torchrun", 5, 8, 1, 4)),
        ({**INTEL, **OPEN, **TORCHRUN}, Ranks("torchrun", 5, 8, 1, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, Ranks("Intel MPI", 1, 2, 1, 2)),
        ({"RANK": "1"}, Ranks("no launcher", 0, 1, 0, 1)),
        ({**INTEL, "RANK": "7"}, Ranks("Intel MPI", 3, 4, 1, 2)),
    ],
    ids=[
        "alone", "Intel MPI", "Open MPI", "torchrun", "torchrun inside mpirun",
        "without local ranks", "half of torchrun", "half of torchrun inside mpirun",
    ],
)  # fmt: skip
def test_the_place_is_read(environment: dict[str, str], wanted: Ranks) -> None:
    assert read_environment(environment) == wanted


def test_first_ranks() -> None:
    assert read_environment({}).is_main_process
    assert read_environment({}).is_local_main_process
    third = Ranks("torchrun", 2, 4, 0, 2)
    assert not third.is_main_process
    assert third.is_local_main_process


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": " 4,2"}, 4),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "many"}, None),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, None),
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "none"}, 2),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, None),
        ({"OMP_NUM_THREADS": "1", **INTEL}, 1),
    ],
)
def test_the_threads_that_a_person_asks_for(
    environment: dict[str, str], wanted: int | None
) -> None:
    assert omp_num_threads(environment) == wanted
