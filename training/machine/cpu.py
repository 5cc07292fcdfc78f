"""What this CPU can do: instruction sets, cores this process may use, precision, threads."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
VNNI = ("avx_vnni", "avx512_vnni")
REPORTED = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
)  # fmt: skip


@dataclass(frozen=True)
class Cpu:
    """The processor, as far as training cares.

    Attributes:
        model: the vendor's name of it.
        flags: instruction sets out of `REPORTED` that it has.
        cores: physical cores that this process may run on.
    """

    model: str
    flags: tuple[str, ...]
    cores: int

    @property
    def computes_bf16(self) -> bool:
        """Whether bf16 is done in hardware; without it bf16 is slower than fp32 (Ice Lake)."""
        return any(flag in self.flags for flag in BF16_INSTRUCTIONS)

    @property
    def int8_sums_saturate(self) -> bool:
        """Whether pairs of 8-bit products are added in 16 bits, as is done without VNNI.

        Two products of 8 bits with and without a sign are up to 64,770 together, where 16 bits end
        at 32,767.
        """
        return "avx2" in self.flags and not any(flag in self.flags for flag in VNNI)

    @property
    def has_amx(self) -> bool:
        """Whether it multiplies tiles of bf16."""
        return "amx_bf16" in self.flags


@cache
def this_cpu() -> Cpu:
    """Read /proc/cpuinfo and the affinity mask; elsewhere, what Python knows."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    entries = {key.strip(): value.strip() for key, value in pairs}
    flags = set(entries.get("flags", "").split())
    return Cpu(
        model=entries.get("model name", platform.processor() or platform.machine()),
        flags=tuple(flag for flag in REPORTED if flag in flags),
        cores=len(physical_cores()),
    )


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores() -> list[int]:
    """One CPU number per physical core that this process may run on: the first of its threads."""
    first: dict[str, int] = {}
    for cpu in _allowed_cpus():
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first.setdefault(siblings.read_text().strip() if siblings.exists() else str(cpu), cpu)
    return list(first.values())


def threads_per_rank(cpu: Cpu, local_ranks: int) -> int:
    """Threads per rank: its share of the cores, or all of them where it is pinned.

    A launcher that pins (mpirun does) has already cut the affinity mask down to the share.
    """
    pinned = len(_allowed_cpus()) < (os.cpu_count() or 1)
    return max(1, cpu.cores if pinned else cpu.cores // local_ranks)
