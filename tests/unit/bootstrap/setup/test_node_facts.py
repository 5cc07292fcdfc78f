"""What the gather_facts's script prints, taken apart; and the script itself on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.inventory.inventory import Node
from bootstrap.setup.node_facts import NodeFacts, gather_facts, read_facts, read_pythons, read_route
from bootstrap.ssh.host import local_host
from tests.unit.bootstrap.setup.test_processor import SAPPHIRE_RAPIDS, topology

BY_IP = """\
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 10.0.0.5/24 metric 100 brd 10.0.0.255 scope global eth0\\       valid_lft forever
3: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\\       valid_lft forever
"""


def recorded(**changes: str) -> str:
    """What the script prints on a two-socket Sapphire Rapids; keyword arguments replace."""
    sections = {
        "system": "x86_64\nvm-swift-1",
        "os": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nID=ubuntu',
        "clock": "1760000000.250000000",
        "memory": "MemTotal:       65858420 kB\nMemFree:        63000000 kB",
        "disk": "/dev/root       129886128 5400000  124469744       5% /",
        "writable": "yes",
        "cpuinfo": SAPPHIRE_RAPIDS,
        "topology": topology(2, 4),
        "allowed": "0-15",
        "pythons": "3.12 /usr/bin/python3.12\n3.12 /usr/bin/python3",
        "tools": "/usr/bin/tar\n/usr/bin/sha256sum\n/usr/bin/sh\n/usr/bin/ssh",
        "tcmalloc": "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
        "route": BY_IP + "10.0.0.4 dev eth0 src 10.0.0.5 uid 1000 \\    cache",
        "route_by_python": "eth0",
        "end": "",
        **changes,
    }
    return "".join(f"\n=== {name}\n{body}\n" for name, body in sections.items())


def test_a_node_of_azure() -> None:
    found = read_facts(recorded())
    assert found.hostname == "vm-swift-1"
    assert found.system == "Ubuntu 24.04.2 LTS"
    assert found.processor.generation == "Sapphire Rapids"
    assert ([node.socket for node in found.numa], found.cores) == ([0, 1], 8)
    assert found.memory == 65858420 * 1024
    assert found.disk_free == 124469744 * 1024
    assert found.clock == 1760000000.25
    assert found.pythons == {"3.12": "/usr/bin/python3.12"}
    assert found.interface == "eth0"
    assert found.tcmalloc == "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"
    assert NodeFacts.model_validate_json(found.model_dump_json()) == found


def test_a_node_without_python_without_ip_without_tcmalloc() -> None:
    found = read_facts(recorded(pythons="", tcmalloc="", route="", route_by_python=""))
    assert found.pythons == {}
    assert found.tcmalloc is None
    assert found.interface is None


def test_output_that_ends_early() -> None:
    with pytest.raises(ValueError, match="ended early"):
        read_facts(recorded().partition("=== allowed")[0])


def test_the_head_is_on_the_interface_that_holds_its_address() -> None:
    """Its route to itself leads through the loopback interface."""
    route = BY_IP.replace("10.0.0.5/", "10.0.0.4/")
    local = "local 10.0.0.4 dev lo src 10.0.0.4 uid 1000 \\    cache <local>"
    assert read_route(route + local, "") == "eth0"


def test_a_name_for_an_address_leaves_the_interface_to_python() -> None:
    """`ip route get` does not look names up; Python's socket does."""
    assert read_route(BY_IP, "eth0") == "eth0"


def test_the_newest_python_comes_first() -> None:
    found = read_pythons("3.9 /usr/bin/python3\n3.11 /opt/b/python3.11\n3.13 /usr/bin/python3.13")
    assert list(found) == ["3.13", "3.11"]


def test_this_machine(tmp_path: Path) -> None:
    host = local_host(Node("here", "127.0.0.1"), str(tmp_path / "not there yet"))
    found = gather_facts(host, "127.0.0.1")
    assert found.hostname == os.uname().nodename
    assert found.machine == os.uname().machine
    assert found.writable
    assert found.memory > 2**30
    assert found.disk_free > 0
    assert found.interface == "lo"
    assert found.processor.generation
    cores = {cpu for node in found.numa for cpu in node.cores}
    assert cores <= os.sched_getaffinity(0)
    assert {"tar", "sha256sum", "sh"} <= set(found.tools)
    assert found.pythons
