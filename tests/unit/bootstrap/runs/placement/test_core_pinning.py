"""Ranks per node, their cores, and the cores kept for oneCCL: from topologies as they are sold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bootstrap.errors import UserError
from bootstrap.node.job import QUANTIZE
from bootstrap.runs.placement.core_pinning import (
    GIB,
    Machine,
    Placement,
    place,
    ranks_by_topology,
    spread,
    too_little_memory,
)
from bootstrap.setup.processor import NumaNode


def machine(*cores: int, memory: int = 1024, name: str = "node") -> Machine:
    """One NUMA node, of a socket of its own, for each number of cores; CPUs numbered on."""
    numa, first = [], 0
    for number, count in enumerate(cores):
        numa.append(
            NumaNode(number=number, socket=number, cores=tuple(range(first, first + count)))
        )
        first += count
    return Machine(name, tuple(numa), memory * GIB)


@pytest.mark.parametrize(
    ("found", "ranks"),
    [
        (machine(56, 56, memory=256), 4),  # the reference cluster's nodes
        (machine(16, memory=128), 1),  # D32s_v5
        (machine(24, 24, memory=384), 2),  # D96s_v5
        (machine(2, memory=16), 1),  # D4s_v5
        (machine(56, 56, memory=32), 2),  # memory is the limit
        (machine(1, memory=4), 1),  # there is always one
    ],
)
def test_ranks_by_topology(found: Machine, ranks: int) -> None:
    assert ranks_by_topology(found) == ranks
    assert spread([found], None, None) == [ranks]


@pytest.mark.parametrize(
    ("n", "ppn", "wanted"),
    [
        (16, 4, [4, 4, 4, 4]),
        (16, None, [4, 4, 4, 4]),
        (None, 2, [2, 2, 2, 2]),
        (6, 2, [2, 2, 2, 0]),
        (5, None, [2, 2, 1, 0]),
        (1, None, [1, 0, 0, 0]),
    ],
)
def test_n_and_ppn_are_mpiruns(n: int | None, ppn: int | None, wanted: list[int]) -> None:
    assert spread([machine(56, 56)] * 4, n, ppn) == wanted


def test_more_ranks_than_the_nodes_take_are_refused() -> None:
    with pytest.raises(UserError, match="-n 9 -ppn 2: 4 nodes take 8 ranks"):
        spread([machine(8)] * 4, 9, 2)
    with pytest.raises(UserError, match="-ppn 0"):
        spread([machine(8)], None, 0)


def test_the_reference_nodes_cores() -> None:
    placement = place(machine(56, 56), 4, ccl=True)
    assert placement.domains == (
        tuple(range(27)), tuple(range(28, 55)), tuple(range(56, 83)), tuple(range(84, 111)),
    )  # fmt: skip
    assert placement.workers == (27, 55, 83, 111)
    assert placement.threads == 27


@pytest.mark.parametrize(
    ("found", "ranks", "ccl", "wanted"),
    [
        (machine(8), 1, False, Placement((tuple(range(8)),))),
        (machine(9), 2, True, Placement(((0, 1, 2), (4, 5, 6)), (3, 7))),
        (machine(10), 4, True, Placement(((0, 1), (2, 3), (4, 5), (6, 7)))),  # too few to give one
        (machine(6), 4, True, Placement(((0,), (1,), (2,), (3,)))),
        (machine(14), 4, False, Placement(((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)))),
        (machine(11), 3, True, Placement(((0, 1, 2), (3, 4, 5), (6, 7, 8)))),
        (machine(10, 5), 3, True, Placement(((0, 1, 2, 3), (5, 6, 7, 8), (10, 11, 12, 13)),
                                            (4, 9, 14))),
        (machine(4, 4), 1, False, Placement((tuple(range(8)),))),  # a rank over both NUMA nodes
        (machine(2, 2, 2, 2), 2, False, Placement(((0, 1, 2, 3), (4, 5, 6, 7)))),
        (machine(1), 2, True, Placement(((0,), (0,)))),  # more ranks than cores share them
    ],
)  # fmt: skip
def test_cores(found: Machine, ranks: int, ccl: bool, wanted: Placement) -> None:
    assert place(found, ranks, ccl) == wanted


def test_cores_left_over_by_equal_shares_are_oneccls() -> None:
    assert place(machine(19, 19), 4, ccl=True) == Placement(
        (tuple(range(8)), tuple(range(9, 17)), tuple(range(19, 27)), tuple(range(28, 36))),
        (8, 17, 27, 36),
    )
    uneven = place(machine(11), 2, ccl=True)  # one is left over: not one each
    assert uneven == Placement(((0, 1, 2, 3), (5, 6, 7, 8)), (4, 9))
    enough = place(machine(11), 4, ccl=True)
    assert enough.workers == ()
    assert place(machine(4, 3), 2, ccl=False).threads == 3


@given(
    some.lists(some.integers(1, 40), min_size=1, max_size=4), some.integers(1, 8), some.booleans()
)
def test_no_core_is_given_twice(cores: list[int], ranks: int, ccl: bool) -> None:
    found = machine(*cores)
    placement = place(found, ranks, ccl)
    assert len(placement.domains) == ranks
    assert all(placement.domains)
    used = [core for domain in placement.domains for core in domain] + list(placement.workers)
    everything = {core for node in found.numa for core in node.cores}
    assert set(used) <= everything
    if all(ranks <= count for count in cores):
        assert len(used) == len(set(used))
    assert len(placement.workers) in (0, ranks)
    assert ccl or not placement.workers


def test_quantizing_takes_more_memory_per_rank() -> None:
    found = machine(56, 56, memory=64)
    assert ranks_by_topology(found) == 4
    assert spread([found], None, None, QUANTIZE) == [2]
    assert too_little_memory(found, 2, QUANTIZE) is None
    warning = too_little_memory(machine(2, memory=16, name="worker-3"), 1, QUANTIZE)
    assert warning is not None
    assert warning.startswith("worker-3: a rank")
    assert "it has 16. Larger nodes" in warning


def test_little_memory_is_told() -> None:
    assert too_little_memory(machine(8, memory=16), 1) is None
    warning = too_little_memory(machine(8, memory=16, name="worker-3"), 2)
    assert warning is not None
    assert warning.startswith("worker-3: 2 ranks")
