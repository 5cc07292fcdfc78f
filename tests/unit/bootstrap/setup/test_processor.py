"""Processors by name, and where their physical cores lie."""

from __future__ import annotations

import pytest

from bootstrap.setup.processor import NumaNode, cpu_list, generation, read_processor, read_topology

ICE_LAKE = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
stepping\t: 6
flags\t\t: fpu avx avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni avx512_bitalg

processor\t: 1
vendor_id\t: GenuineIntel
"""
SAPPHIRE_RAPIDS = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8473C
stepping\t: 8
flags\t\t: avx2 avx512f avx512_bf16 avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8
"""


@pytest.mark.parametrize(
    ("vendor", "numbers", "name"),
    [
        ("GenuineIntel", (6, 85, 4), "Skylake"),
        ("GenuineIntel", (6, 85, 7), "Cascade Lake"),
        ("GenuineIntel", (6, 85, 11), "Cooper Lake"),
        ("GenuineIntel", (6, 106, 6), "Ice Lake"),
        ("GenuineIntel", (6, 143, 8), "Sapphire Rapids"),
        ("GenuineIntel", (6, 207, 2), "Emerald Rapids"),
        ("GenuineIntel", (6, 173, 0), "Granite Rapids"),
        ("AuthenticAMD", (25, 1, 1), "AMD Milan"),
        ("AuthenticAMD", (25, 17, 1), "AMD Genoa"),
        ("AuthenticAMD", (26, 2, 1), "AMD Turin"),
        ("GenuineIntel", (6, 9999, 0), "Intel family 6 model 9999"),
        ("", (-1, -1, -1), "unknown family -1 model -1"),
    ],
)
def test_generations(vendor: str, numbers: tuple[int, int, int], name: str) -> None:
    assert generation(vendor, *numbers) == name


def test_an_ice_lake_has_no_bf16() -> None:
    found = read_processor(ICE_LAKE)
    assert found.generation == "Ice Lake"
    assert found.name == "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz"
    assert found.flags == ("avx2", "avx512f", "avx512_vnni")
    assert not found.has_amx
    assert found.abilities == "no bf16"


def test_a_sapphire_rapids_has_amx() -> None:
    found = read_processor(SAPPHIRE_RAPIDS)
    assert found.generation == "Sapphire Rapids"
    assert found.has_amx
    assert found.abilities == "AMX"


def test_lists_of_cpus() -> None:
    assert cpu_list("0-2,8") == [0, 1, 2, 8]
    assert cpu_list("\n") == []


def topology(sockets: int, cores: int) -> str:
    """What lscpu prints on a machine with two hyper-threads per core, numbered as Xeons do."""
    count = sockets * cores
    lines = [
        f"{cpu},{cpu % count},{cpu % count // cores},{cpu % count // cores}"
        for cpu in range(2 * count)
    ]
    return "\n".join(["# CPU,Core,Socket,Node", *lines])


def test_two_sockets_with_hyper_threads() -> None:
    found = read_topology(topology(2, 4), "0-15")
    assert found == (
        NumaNode(number=0, socket=0, cores=(0, 1, 2, 3)),
        NumaNode(number=1, socket=1, cores=(4, 5, 6, 7)),
    )


def test_a_part_of_a_machine() -> None:
    """A container that may use both threads of core 1, and the second thread of core 5."""
    found = read_topology(topology(2, 4), "1,9,13")
    assert [node.cores for node in found] == [(1,), (13,)]


def test_threads_of_a_cloud_core_are_neighbours() -> None:
    """Azure numbers the two threads of a core 0 and 1."""
    lines = "\n".join(f"{cpu},{cpu // 2},0," for cpu in range(4))
    assert read_topology(lines, "0-3") == (NumaNode(number=0, socket=0, cores=(0, 2)),)


def test_a_kernel_that_says_nothing() -> None:
    assert read_topology("", "0-1") == (NumaNode(number=0, socket=0, cores=(0, 1)),)
