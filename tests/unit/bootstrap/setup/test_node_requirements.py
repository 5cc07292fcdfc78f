"""What stops a cluster, and what is only worth saying."""

from __future__ import annotations

import pytest

from bootstrap.errors import UserError
from bootstrap.setup import node_requirements
from bootstrap.setup.node_facts import NodeFacts, read_facts
from bootstrap.setup.python.interpreter import Conda, Venv
from tests.unit.bootstrap.setup.test_node_facts import recorded
from tests.unit.bootstrap.setup.test_processor import ICE_LAKE

DISK = "/dev/root 129886128 100 {} 5% /"


def node(**changes: str) -> NodeFacts:
    return read_facts(recorded(**changes))


def refusals(facts: NodeFacts, *, conda: bool = False, equipped: bool = False) -> str:
    found = facts.model_copy(update={"root": "/home/me/x", "equipped": equipped})
    kind = Conda if conda else Venv
    return "\n".join(node_requirements.refusals("n1", found, stack="intel", kind=kind))


def test_a_good_node() -> None:
    assert refusals(node()) == ""
    assert node_requirements.warnings({"n1": node()}, stack="intel") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disk": DISK.format(4 * 2**20)}, "4.0 GiB free for /home/me/x and 12 GiB are needed"),
        ({"memory": "MemTotal: 2000000 kB"}, "1.9 GiB of memory"),
        ({"system": "aarch64\nn1"}, "is aarch64"),
        ({"pythons": "3.9 /usr/bin/python3"}, "no Python 3.11 to 3.13"),
        ({"writable": ""}, "cannot be written"),
        ({"tools": "/usr/bin/tar\n/usr/bin/sh"}, "sha256sum missing"),
    ],
)
def test_refusals(changes: dict[str, str], said: str) -> None:
    found = refusals(node(**changes))
    assert said in found
    assert found.startswith("n1: ")


def test_a_node_that_is_equipped_needs_less_room() -> None:
    assert refusals(node(disk=DISK.format(4 * 2**20)), equipped=True) == ""


def test_conda_brings_its_own_python_and_needs_an_older_one_to_start_from() -> None:
    assert refusals(node(pythons="3.10 /usr/bin/python3"), conda=True) == ""
    assert "no Python 3.10 or newer" in refusals(node(pythons="3.9 /usr/bin/python3"), conda=True)


def test_a_mixed_cluster() -> None:
    probes = {"n1": node(), "n2": node(cpuinfo=ICE_LAKE)}
    said = "\n".join(node_requirements.warnings(probes, stack="intel"))
    assert "mixed cluster" in said
    assert "Sapphire Rapids (AMX): n1" in said
    assert "Ice Lake (no bf16): n2" in said
    assert "no AMX on n2" in said
    assert node_requirements.mixed_precision(probes) == "no"
    assert node_requirements.mixed_precision({"n1": node()}) == "bf16"


def test_clocks() -> None:
    probes = {"a": node(), "b": node(), "c": node(clock="1760000090.0")}
    assert "clocks differ (c by +90 s)" in "\n".join(
        node_requirements.warnings(probes, stack="intel")
    )


def test_the_python_that_all_have() -> None:
    both = "3.12 /usr/bin/python3.12\n3.11 /usr/bin/python3.11"
    probes = {"a": node(pythons=both), "b": node(pythons="3.11 /opt/python3.11")}
    assert node_requirements.common_python(probes) == "3.11"
    assert probes["b"].pythons["3.11"] == "/opt/python3.11"


def test_no_python_in_common() -> None:
    probes = {"a": node(pythons="3.12 /a"), "b": node(pythons="3.13 /b")}
    with pytest.raises(UserError, match=r"a: 3\.12; b: 3\.13.*conda"):
        node_requirements.common_python(probes)
