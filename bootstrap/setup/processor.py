"""A processor by its name among those who buy it, and where its physical cores lie."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

REPORTED = ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "avx512_bf16", "amx_tile", "amx_int8")

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
    def has_amx(self) -> bool:
        """Whether it multiplies tiles of bf16, which is several times as fast as float32."""
        return "amx_bf16" in self.flags

    @property
    def abilities(self) -> str:
        """What matters to training, in a few words."""
        if self.has_amx:
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


def read_topology(lscpu: str, allowed: str) -> tuple[NumaNode, ...]:
    """Where the physical cores lie, hyper-threads left out.

    Args:
        lscpu: what `lscpu -p=CPU,CORE,SOCKET,NODE` prints; where it says nothing, each CPU counts
            as a core.
        allowed: Cpus_allowed_list of this account: a container may have a part of the machine.
    """
    places: dict[int, tuple[int, int, int]] = {}
    for line in lscpu.splitlines():
        if line and not line.startswith("#"):
            cpu, core, socket, node = (int(number or 0) for number in line.split(","))
            places[cpu] = node, socket, core
    taken: set[tuple[int, int, int]] = set()
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(cpu_list(allowed) or places):
        place = places.get(cpu, (0, 0, cpu))
        if place not in taken:
            taken.add(place)
            cores.setdefault(place[:2], []).append(cpu)
    return tuple(
        NumaNode(number=number, socket=socket, cores=tuple(cpus))
        for (number, socket), cpus in sorted(cores.items())
    )
