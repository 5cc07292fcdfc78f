"""Whether a cluster will do, from what its nodes said: what stops it, and what one should know."""

from __future__ import annotations

from collections.abc import Mapping

from bootstrap.errors import UserError
from bootstrap.setup.node_facts import PYTHONS, NodeFacts
from bootstrap.setup.python.interpreter import Interpreter

GIB = 2**30
DISK_GIB = {"upstream": 8.0, "intel": 12.0}
"""Wheels, environment and a model of Stable Diffusion's size, before any of it is there."""
LEFT_GIB = 1.0
"""For a node that has them already: room to write checkpoints."""
MEMORY_GIB = 3.0
"""A miniature trains in this; Stable Diffusion 1.5 took 9.0 GB (one rank, fp32)."""
COMFORTABLE_GIB = 12.0
TOOLS = ("tar", "sha256sum", "sh")
CLOCK_SECONDS = 5.0


def refusals(name: str, facts: NodeFacts, *, stack: str, kind: type[Interpreter]) -> list[str]:
    """Why a node cannot be used; each with what mends it.

    Args:
        name: the node's.
        stack: "intel" or "upstream".
        kind: what makes the environments' Python.
    """
    found = []
    if facts.machine != "x86_64":
        found.append(f"{name}: is {facts.machine}; the nodes' packages exist for x86_64 only.")
    # Where bootstrap has been before, most of the room is taken by it.
    needed = LEFT_GIB if facts.equipped else DISK_GIB[stack]
    if facts.disk_free < needed * GIB:
        found.append(
            f"{name}: {facts.disk_free / GIB:.1f} GiB free for {facts.root} and {needed:g} GiB are "
            f"needed. Make room there, or name another disk: XEON_DIFFUSION_ROOT=/path."
        )
    if not facts.writable:
        found.append(f"{name}: {facts.root} cannot be written by this account.")
    if facts.memory < MEMORY_GIB * GIB:
        found.append(
            f"{name}: {facts.memory / GIB:.1f} GiB of memory; {MEMORY_GIB:g} GiB is the least."
        )
    missing = [tool for tool in TOOLS if tool not in facts.tools]
    if missing:
        found.append(f"{name}: {', '.join(missing)} missing: install the package that has it.")
    lacking = kind.refusal(facts)
    if lacking:
        found.append(f"{name}: {lacking}")
    return found


def warnings(nodes: Mapping[str, NodeFacts], *, stack: str) -> list[str]:
    """What a person should know about nodes that will do, by name."""
    said = []
    by_generation: dict[str, list[str]] = {}
    for name, facts in nodes.items():
        kind = f"{facts.processor.generation} ({facts.processor.abilities})"
        by_generation.setdefault(kind, []).append(name)
    if len(by_generation) > 1:
        kinds = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_generation.items())
        said.append(f"mixed cluster, and the slowest node sets the pace. {kinds}.")
    without = [name for name, facts in nodes.items() if not facts.processor.has_amx]
    if without:
        said.append(
            f"no AMX on {', '.join(without)}: training is done in float32 everywhere, unless "
            "bf16 turns out to be faster there."
        )
    narrow = [n for n, facts in nodes.items() if "avx512f" not in facts.processor.flags]
    if narrow and stack == "intel":
        said.append(
            f"no AVX-512 on {', '.join(narrow)}: Intel's extension gains little there; "
            "--stack upstream is the smaller one."
        )
    tight = [name for name, facts in nodes.items() if facts.memory < COMFORTABLE_GIB * GIB]
    if tight:
        said.append(
            f"{', '.join(tight)}: less than {COMFORTABLE_GIB:g} GiB of memory; Stable Diffusion "
            "1.5 takes about 9 GB per rank."
        )
    said.extend(_skewed(nodes))
    return said


def _skewed(nodes: Mapping[str, NodeFacts]) -> list[str]:
    clocks = {name: facts.clock for name, facts in nodes.items()}
    if len(clocks) < 2:
        return []
    middle = sorted(clocks.values())[len(clocks) // 2]
    off = [
        f"{name} by {clock - middle:+.0f} s"
        for name, clock in clocks.items()
        if abs(clock - middle) > CLOCK_SECONDS
    ]
    return [f"clocks differ ({', '.join(off)}): start a time service there."] if off else []


def mixed_precision(nodes: Mapping[str, NodeFacts]) -> str:
    """The accelerate configs' value: "bf16" where every node has AMX, else "no"."""
    everywhere = all(facts.processor.has_amx for facts in nodes.values())
    return "bf16" if nodes and everywhere else "no"


def common_python(nodes: Mapping[str, NodeFacts]) -> str:
    """The newest version that every node has: the head fetches wheels for one version.

    Raises:
        UserError: they have none in common.
    """
    for version in PYTHONS:
        if all(version in facts.pythons for facts in nodes.values()):
            return version
    have = "; ".join(
        f"{name}: {', '.join(facts.pythons) or 'none'}" for name, facts in nodes.items()
    )
    raise UserError(
        f"the nodes have no Python in common that will do ({have}). Install Python "
        f"{PYTHONS[-1]} or newer with its venv module on each, or use --environment conda."
    )
