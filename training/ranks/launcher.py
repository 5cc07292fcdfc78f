"""Who this process is among the ranks, as the environment of its launcher says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHERS = (
    # torchrun and accelerate launch first: inside mpirun they know better than mpirun.
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    (
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
)


@dataclass(frozen=True)
class Ranks:
    """One process's place.

    Attributes:
        launcher: who started it, for the log.
        rank, size: among all.
        local_rank, local_size: among those on this machine.
        backend: "ccl" or "gloo", the same on all; None when alone.
        notice: why it is not the one that some of them would have; "" otherwise.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    backend: str | None = None
    notice: str = ""

    @property
    def is_main_process(self) -> bool:
        """Whether this rank writes the outputs."""
        return self.rank == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this rank is the first of its machine."""
        return self.local_rank == 0


def read_environment(environment: Mapping[str, str]) -> Ranks:
    """This process's place as its launcher's environment variables say it."""
    for launcher, rank, size, local_rank, local_size in LAUNCHERS:
        if rank in environment and size in environment:
            return Ranks(
                launcher,
                int(environment[rank]),
                int(environment[size]),
                int(environment.get(local_rank, environment[rank])),
                int(environment.get(local_size, environment[size])),
            )
    return Ranks("no launcher", 0, 1, 0, 1)
