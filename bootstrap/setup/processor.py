"""A processor by its name among those who buy it, and where its physical cores lie."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

BF16 = ("amx_bf16", "avx512_bf16")
REPORTED = ("avx2", "avx512f", "avx512_vnni", *BF16, "amx_tile", "amx_int8")

# Family and model as /proc/cpuinfo has them. Intel's from the kernel's
# arch/x86/include/asm/intel-family.h, AMD's from its arch/x86/kernel/cpu/amd.c.
INTEL = {
    63: "Haswell",
    79: "Broadwell",
    106: "Ice Lake",
    108: "Ice Lake",
    143: "Sapphire Rapids",
    173: "Granite Rapids",
    174: "Granite Rapids",
    175: "Sierra Forest",
    207: "Emerald Rapids",
    221: "Clearwater Forest",
}
CASCADE_LAKE_STEPPINGS = range(5, 8)
AMD = (
    (23, range(0x10), "AMD Naples"),
    (23, range(0x30, 0x40), "AMD Rome"),
    (25, range(0x10), "AMD Milan"),
    (25, range(0x10, 0x20), "AMD Genoa"),
    (25, range(0xA0, 0xB0), "AMD Bergamo"),
    (26, range(0x20), "AMD Turin"),
)


def generation(vendor: str, family: int, model: int, stepping: int) -> str:
    """What a processor is called, such as "Sapphire Rapids"; unknown ones by their numbers."""
    if vendor == "GenuineIntel" and family == 6:
        if model == 85:  # three generations share the number
            if stepping in CASCADE_LAKE_STEPPINGS:
                return "Cascade Lake"
            return "Cooper Lake" if stepping >= 10 else "Skylake"
        if model in INTEL:
            return INTEL[model]
    if vendor == "AuthenticAMD":
        for of_family, models, name in AMD:
            if family == of_family and model in models:
                return name
    maker = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(vendor, vendor or "unknown")
    return f"{maker} family {family} model {model}"


class Processor(BaseModel):
    """What /proc/cpuinfo says.

    Attributes:
        name: the vendor's name of it.
        generation: see `generation`.
        flags: instruction sets out of `REPORTED` that it has.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    generation: str
    flags: tuple[str, ...]

    @property
    def computes_bf16(self) -> bool:
        """Whether bf16 is done in hardware."""
        return any(flag in self.flags for flag in BF16)

    @property
    def abilities(self) -> str:
        """What matters to training, in a few words."""
        if "amx_bf16" in self.flags:
            return "AMX"
        if "avx512_bf16" in self.flags:
            return "AVX-512 BF16"
        return "no bf16"


def read_processor(cpuinfo: str) -> Processor:
    """The first processor in /proc/cpuinfo's text."""
    first = cpuinfo.strip().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    entries = {key.strip(): value.strip() for key, value in pairs}

    def number(key: str) -> int:
        return int(entries[key]) if entries.get(key, "").isdigit() else -1

    flags = set(entries.get("flags", "").split())
    vendor = entries.get("vendor_id", "")
    return Processor(
        name=entries.get("model name", "unknown"),
        generation=generation(vendor, number("cpu family"), number("model"), number("stepping")),
        flags=tuple(flag for flag in REPORTED if flag in flags),
    )


class NumaNode(BaseModel):
    """One memory domain.

    Attributes:
        number: the system's.
        socket: which processor package it belongs to.
        cores: one CPU number for each physical core that may be used here, ascending.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    socket: int
    cores: tuple[int, ...]


def cpu_list(text: str) -> list[int]:
    """The numbers in the kernel's form of a list: "0-2,8" is 0, 1, 2, 8."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def read_topology(topology: str, numa: str, allowed: str) -> tuple[NumaNode, ...]:
    """Where the physical cores lie, hyper-threads left out.

    Args:
        topology: lines `<path of cpuN>/topology/<file>:<value>` of physical_package_id and
            thread_siblings_list, as grep prints them.
        numa: lines `<path of nodeN>/cpulist:<list>`; empty where the kernel has no such files.
        allowed: Cpus_allowed_list of this account: a container may have a part of the machine.
    """
    packages: dict[int, int] = {}
    siblings: dict[int, list[int]] = {}
    for line in topology.splitlines():
        found = re.search(r"/cpu(\d+)/topology/(\w+):(.*)$", line)
        if found and found[2] == "physical_package_id":
            packages[int(found[1])] = max(int(found[3]), 0)
        elif found and found[2] == "thread_siblings_list":
            siblings[int(found[1])] = cpu_list(found[3])
    domains = {
        cpu: int(found[1])
        for line in numa.splitlines()
        if (found := re.search(r"/node(\d+)/cpulist:(.*)$", line))
        for cpu in cpu_list(found[2])
    }
    usable = cpu_list(allowed) or sorted(siblings)
    taken: set[int] = set()
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(usable):
        if cpu in taken:
            continue
        taken.update(siblings.get(cpu, [cpu]))
        cores.setdefault((domains.get(cpu, 0), packages.get(cpu, 0)), []).append(cpu)
    return tuple(
        NumaNode(number=number, socket=socket, cores=tuple(cpus))
        for (number, socket), cpus in sorted(cores.items())
    )
