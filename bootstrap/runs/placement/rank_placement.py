"""From the nodes as they are to a job: ranks, cores, environment of each node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bootstrap.errors import UserError
from bootstrap.node.job import METHOD, QUANTIZE, JobNode
from bootstrap.runs.placement import core_pinning
from bootstrap.runs.placement.core_pinning import Machine, Placement
from bootstrap.setup.node_facts import NodeFacts, gather_facts
from bootstrap.ssh.host import Host

CCL, NNCF = "oneccl_bindings_for_pytorch", "nncf"
FOUND = "import sys, importlib.util as u; print(u.find_spec(sys.argv[1]) is not None)"
LOOPBACK = "lo"


@dataclass(frozen=True)
class NodePlacement:
    """A node, what it is, and what it gets to do."""

    node: JobNode
    machine: Machine
    placement: Placement


def examine(hosts: Sequence[Host], head_address: str) -> list[NodeFacts]:
    """What every node is, asked at once."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(lambda host: gather_facts(host, head_address), hosts))


def uses_ccl(head: Host) -> bool:
    """Whether the environment there has oneCCL's bindings.

    Raises:
        UserError: there is no environment.
    """
    return _has(head, CCL)


def refuse_without_nncf(hosts: Sequence[Host]) -> None:
    """Make sure that every node can quantize.

    Raises:
        UserError: names those that have no NNCF, or no environment.
    """
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: _has(host, NNCF), hosts))
    lacking = [host.name for host, there in zip(hosts, found, strict=True) if not there]
    if lacking:
        raise UserError(
            f"{', '.join(lacking)}: NNCF is missing, which --method quantize needs on every node. "
            "`fab bootstrap --with openvino` brings it (with the flags of your last fab bootstrap)."
        )


def _has(host: Host, module: str) -> bool:
    finished = host.run([host.python, "-P", "-c", FOUND, module], check=False)
    if finished.exit_code != 0:
        raise UserError(f"{host.name} has no environment yet: fab bootstrap sets it up.")
    return finished.stdout.strip() == "True"


def preloaded(head: Host) -> str:
    """LD_PRELOAD as `activate` sets it; "" where it does not."""
    text = head.text_of(head.layout.activate)
    for line in text.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name == "LD_PRELOAD":
            return " ".join(shlex.split(value))
    return ""


def method_environment(head: Host, method: str) -> dict[str, str]:
    """What the ranks of a method have beside their placement."""
    if method != QUANTIZE:
        return {}
    # NNCF loads OpenVINO, which crashes where tcmalloc is preloaded.
    libraries = preloaded(head).split(":")
    return {"LD_PRELOAD": ":".join(path for path in libraries if "tcmalloc" not in path)}


def place(
    hosts: Sequence[Host], facts: Sequence[NodeFacts], n: int | None, ppn: int | None, ccl: bool,
    preload: str, method: str = METHOD, threads: int | None = None,
) -> list[NodePlacement]:  # fmt: skip
    """Ranks and cores of every node.

    Args:
        threads: of each rank, if fewer than it has cores.

    Raises:
        UserError: -n and -ppn do not go together.
    """
    machines = [
        Machine(host.name, found.numa, found.memory)
        for host, found in zip(hosts, facts, strict=True)
    ]
    counts = core_pinning.spread(machines, n, ppn, method)
    ccl = ccl and sum(counts) > 1
    placed = []
    for host, found, machine, ranks in zip(hosts, facts, machines, counts, strict=True):
        placement = core_pinning.place(machine, ranks, ccl) if ranks else Placement(())
        environment = placement_environment(placement, preload) if ranks else {}
        if ranks and threads is not None:
            environment["OMP_NUM_THREADS"] = str(min(threads, placement.threads))
        interface = found.interface if len(hosts) > 1 else LOOPBACK
        if interface:
            environment["FI_TCP_IFACE"] = interface
            environment["GLOO_SOCKET_IFNAME"] = interface
        node = JobNode(host.name, host.node.address, ranks, environment)
        placed.append(NodePlacement(node, machine, placement))
    return placed


def placement_environment(placement: Placement, preload: str) -> dict[str, str]:
    """Threads and pinning of one node's ranks.

    Args:
        preload: LD_PRELOAD; KMP_* mean something only where libiomp5 is in it.
    """
    variables = {
        "OMP_NUM_THREADS": str(placement.threads),
        "I_MPI_PIN_DOMAIN": f"[{','.join(mask(domain) for domain in placement.domains)}]",
    }
    if "libiomp5" in preload:
        variables["KMP_AFFINITY"] = "granularity=fine,compact,1,0"
        variables["KMP_BLOCKTIME"] = "1"
    if placement.workers:
        variables["CCL_WORKER_AFFINITY"] = ",".join(str(core) for core in placement.workers)
    return variables


def mask(cores: Sequence[int]) -> str:
    """CPU numbers as the hexadecimal mask that I_MPI_PIN_DOMAIN takes."""
    return hex(sum(1 << core for core in cores))


def shown(placed: Sequence[NodePlacement]) -> str:
    """The placement, for people: one line per rank."""
    lines = []
    for each in placed:
        if not each.node.ranks:
            lines.append(f"{each.node.name}: no ranks")
        for number, domain in enumerate(each.placement.domains):
            workers = each.placement.workers
            kept = f", oneCCL on core {workers[number]}" if workers else ""
            lines.append(
                f"{each.node.name} rank {number}: "
                f"{each.node.environment['OMP_NUM_THREADS']} threads on cores "
                f"{ranges(domain)}{kept}"
            )
    return "\n".join(lines)


def ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 8 as "0-2,8"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
