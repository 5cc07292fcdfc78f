"""How many ranks a node gets, and which cores each of them computes on: from its real topology.

The rules, each with its reason:

* One rank per NUMA node, so that a rank's memory is its own socket's. A NUMA node of more than
  `CORES_PER_RANK` cores is shared by as many ranks as it takes: at batch 1 the layers of a UNet
  do not keep more cores busy. The reference cluster (two sockets of 56 cores) ran four ranks per
  node; so does this rule there.
* No more ranks than fit in memory: `bytes_per_rank` each, `BYTES_KEPT` for the system.
* Ranks of a node get equally many cores, as each step waits for the slowest. Hyper-threads are
  left out: two threads of one core share the units that do the work.
* oneCCL's worker thread spins. It gets a core of its own: one that the equal shares left over,
  or else a rank's last one, if that rank has at least `CORES_TO_SHARE` (of fewer, a whole core
  would be too much to give for messages of kilobytes).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bootstrap.errors import UserError
from bootstrap.node.job import METHOD, QUANTIZE
from bootstrap.setup.processor import NumaNode

CORES_PER_RANK = 32
CORES_TO_SHARE = 4
GIB = 1 << 30
BYTES_PER_RANK = 13 * GIB
"""Stable Diffusion 1.5 in float32 while it is read and prepared, with activations at 512 pixels."""
BYTES_PER_QUANTIZING_RANK = 26 * GIB
"""All of the UNet is trained: it, its teacher, the gradient (twice), AdamW's two moments and the
average are seven times 3.2 GiB."""
BYTES_KEPT = 2 * GIB


@dataclass(frozen=True)
class Machine:
    """A node, as far as placing ranks on it goes."""

    name: str
    numa: tuple[NumaNode, ...]
    memory: int


@dataclass(frozen=True)
class Placement:
    """One node's ranks.

    Attributes:
        domains: the cores of each rank, by its local number; CPU numbers.
        workers: the cores kept for oneCCL, one per rank; empty where none are kept.
    """

    domains: tuple[tuple[int, ...], ...]
    workers: tuple[int, ...] = ()

    @property
    def threads(self) -> int:
        """Threads that each rank computes with."""
        return min((len(domain) for domain in self.domains), default=0)


def bytes_per_rank(method: str) -> int:
    """The memory that a rank of a method takes at Stable Diffusion 1.5's size."""
    return BYTES_PER_QUANTIZING_RANK if method == QUANTIZE else BYTES_PER_RANK


def ranks_by_topology(machine: Machine, method: str = METHOD) -> int:
    """The ranks that a node gets when nobody says how many."""
    wanted = sum(-(-len(node.cores) // CORES_PER_RANK) for node in machine.numa)
    fitting = (machine.memory - BYTES_KEPT) // bytes_per_rank(method)
    return max(1, min(wanted, fitting))


def spread(
    machines: Sequence[Machine], n: int | None, ppn: int | None, method: str = METHOD
) -> list[int]:
    """The ranks of each node, in order, for mpirun's -n and -ppn; what is None is chosen.

    Raises:
        UserError: they do not go together.
    """
    for flag, value in (("-n", n), ("-ppn", ppn)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value}: at least one rank is needed.")
    if ppn is None and n is None:
        return [ranks_by_topology(machine, method) for machine in machines]
    if n is None:
        assert ppn is not None
        return [ppn] * len(machines)
    each = ppn if ppn is not None else -(-n // len(machines))
    if n > each * len(machines):
        raise UserError(
            f"-n {n} -ppn {ppn}: {len(machines)} nodes take {each * len(machines)} ranks. "
            "Give a larger -ppn, or leave it out."
        )
    return [max(0, min(each, n - each * number)) for number in range(len(machines))]


def place(machine: Machine, ranks: int, ccl: bool) -> Placement:
    """Share a node's cores out among its ranks.

    Args:
        ranks: how many; more than there are cores share cores.
        ccl: whether messages go through oneCCL, whose workers need cores.
    """
    domains: list[tuple[int, ...]] = []
    left_over: list[int] = []
    for cores, count in _by_domain(machine.numa, ranks):
        size = len(cores) // count
        if size == 0:
            domains += [(cores[number % len(cores)],) for number in range(count)]
            continue
        domains += [tuple(cores[i * size : (i + 1) * size]) for i in range(count)]
        left_over += cores[count * size :]
    if not ccl:
        return Placement(tuple(domains))
    if len(left_over) >= ranks:
        return Placement(tuple(domains), tuple(left_over[:ranks]))
    if min(len(domain) for domain in domains) >= CORES_TO_SHARE:
        kept = tuple(domain[-1] for domain in domains)
        return Placement(tuple(domain[:-1] for domain in domains), kept)
    return Placement(tuple(domains))


def _by_domain(numa: Sequence[NumaNode], ranks: int) -> list[tuple[list[int], int]]:
    """Groups of cores and how many ranks share each: a NUMA node, or several for one rank."""
    nodes = sorted(numa, key=lambda node: (node.socket, node.number))
    if ranks < len(nodes):
        bounds = [len(nodes) * number // ranks for number in range(ranks + 1)]
        return [
            ([core for node in nodes[start:end] for core in node.cores], 1)
            for start, end in itertools.pairwise(bounds)
        ]
    counts = [1] * len(nodes)
    for _ in range(ranks - len(nodes)):  # each further rank goes where most cores are per rank
        roomiest = max(range(len(nodes)), key=lambda i: (len(nodes[i].cores) / counts[i], -i))
        counts[roomiest] += 1
    return [(list(node.cores), count) for node, count in zip(nodes, counts, strict=True)]


def too_little_memory(machine: Machine, ranks: int, method: str = METHOD) -> str | None:
    """A warning where asked-for ranks may not fit; None where they do."""
    needed = ranks * bytes_per_rank(method) + BYTES_KEPT
    if needed <= machine.memory or (ranks <= 1 and method != QUANTIZE):
        return None
    less = "A smaller -ppn needs less." if ranks > 1 else "Larger nodes have room for it."
    who = f"{ranks} ranks" if ranks > 1 else "a rank"
    takes = "take" if ranks > 1 else "takes"
    return (
        f"{machine.name}: {who} of Stable Diffusion 1.5 {takes} up to "
        f"{needed / GIB:.0f} GiB, it has {machine.memory / GIB:.0f}. {less}"
    )
