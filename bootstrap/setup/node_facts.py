"""What a bare node is: asked with a shell script, as nothing else is sure to be there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from bootstrap.errors import UserError
from bootstrap.setup.processor import NumaNode, Processor, read_processor, read_topology

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

SECONDS = 60
PYTHONS = ("3.13", "3.12", "3.11")
"""The interpreters that the locks hold wheels for, best first."""
CONDA_PYTHONS = (*PYTHONS, "3.14", "3.10")
"""Those that run what makes conda environments, best first."""
TCMALLOC = ("libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "libtcmalloc.so")

# Sections of raw text, taken apart here. `ip` is not on every system, so the last word on addresses
# is Python's where there is one.
SCRIPT = r"""
section() { printf '\n=== %s\n' "$1"; }
root=$1; head=$2
section system; uname -m; hostname
section os; cat /etc/os-release 2>/dev/null
section clock; date +%s.%N
section memory; cat /proc/meminfo
place=$root; while [ ! -d "$place" ]; do place=$(dirname "$place"); done
section disk; df -Pk "$place" | tail -n 1
section writable; [ -w "$place" ] && echo yes
section equipped; [ -e "$root/env" ] && echo yes
section cpuinfo; cat /proc/cpuinfo
section topology; lscpu -p=CPU,CORE,SOCKET,NODE 2>/dev/null
section allowed; sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status
section pythons
for name in python3.13 python3.12 python3.11 python3.10 python3 \
    /usr/bin/python3 /usr/local/bin/python3; do
    path=$(command -v "$name") && "$path" -c '
import sys, venv
print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null
done
section tools; for tool in tar sha256sum sh ssh bash; do command -v $tool; done
section tcmalloc
for folder in /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do
    for name in TCMALLOC; do [ -e "$folder/$name" ] && echo "$folder/$name"; done
done
section route
if command -v ip >/dev/null; then ip -o -4 addr show; ip -o route get "$head" 2>/dev/null; fi
section route_by_python
python3 -c '
import fcntl, socket, struct, sys
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.connect((sys.argv[1], 9))
mine = asked.getsockname()[0]
for _, name in socket.if_nameindex():
    try:
        packed = fcntl.ioctl(asked, 0x8915, struct.pack("256s", name.encode()))
    except OSError:
        continue
    if socket.inet_ntoa(packed[20:24]) == mine:
        print(name)' "$head" 2>/dev/null
section end
""".replace("TCMALLOC;", " ".join(TCMALLOC) + ";")


class NodeFacts(BaseModel):
    """A node as it was found.

    Attributes:
        hostname, machine: as uname has them.
        system: the distribution's own name of itself.
        clock: seconds since the epoch when it was asked.
        memory, disk_free: bytes.
        writable: whether this account may write there.
        numa: see `NumaNode`.
        pythons: those that can make an environment, best first: version -> path.
        conda_python: the path of one that can run conda's installer, or None.
        tools: what the script found of the programs it looked for, by name.
        tcmalloc: the system's, or None.
        interface: on the route to the head; None where it could not be told.
        root: the folder that everything of ours goes to.
        equipped: whether an environment is there from an earlier time.
    """

    model_config = ConfigDict(frozen=True)

    hostname: str
    machine: str
    system: str
    clock: float
    memory: int
    disk_free: int
    writable: bool
    processor: Processor
    numa: tuple[NumaNode, ...]
    pythons: dict[str, str]
    conda_python: str | None
    tools: tuple[str, ...]
    tcmalloc: str | None
    interface: str | None
    root: str = ""
    equipped: bool = False

    @property
    def any_python(self) -> str:
        """The path of any interpreter from 3.10, for small programs of ours.

        Raises:
            UserError: there is none.
        """
        if self.conda_python is None:
            raise UserError(f"{self.hostname}: no Python {CONDA_PYTHONS[-1]} or newer.")
        return self.conda_python

    @property
    def cores(self) -> int:
        """Physical cores that may be used."""
        return sum(len(node.cores) for node in self.numa)


def gather_facts(host: Host, head_address: str) -> NodeFacts:
    """Ask a node what it is. Takes about a second.

    Raises:
        UserError: it answered with something else.
    """
    words = " ".join(shlex.quote(word) for word in (host.layout.root, head_address))
    finished = host.run(f"sh -s {words}", stdin=SCRIPT.encode(), timeout=SECONDS, check=False)
    try:
        return read_facts(finished.stdout).model_copy(update={"root": host.layout.root})
    except (KeyError, IndexError, ValueError) as error:
        said = (finished.stderr or finished.stdout).strip()[-300:]
        raise UserError(
            f"{host.node.name}: could not be examined ({error!r}; exit code "
            f"{finished.exit_code}): {said}\nA Linux with a POSIX shell is needed."
        ) from error


def read_facts(text: str) -> NodeFacts:
    """Take the script's output apart."""
    parts = re.split(r"^=== (\w+)\n", text, flags=re.MULTILINE)[1:]
    sections = {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
    if "end" not in sections:
        raise ValueError("it ended early")
    machine, hostname = (sections["system"].splitlines() + ["?"] * 2)[:2]
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', sections["os"], re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", sections["memory"], re.MULTILINE)
    _, free, _, _ = sections["disk"].rsplit(maxsplit=3)
    tcmalloc = sections["tcmalloc"].splitlines()
    return NodeFacts(
        hostname=hostname,
        machine=machine,
        system=named[1] if named else "unknown",
        clock=float(sections["clock"]),
        memory=int(memory[1]) * 1024 if memory else 0,
        disk_free=int(free) * 1024,
        writable=sections["writable"] == "yes",
        processor=read_processor(sections["cpuinfo"]),
        numa=read_topology(sections["topology"], sections["allowed"]),
        pythons=read_pythons(sections["pythons"]),
        conda_python=next(iter(read_pythons(sections["pythons"], CONDA_PYTHONS).values()), None),
        tools=tuple(line.rsplit("/", 1)[-1] for line in sections["tools"].splitlines()),
        tcmalloc=tcmalloc[0] if tcmalloc else None,
        interface=read_route(sections["route"], sections["route_by_python"]),
        equipped=sections.get("equipped") == "yes",
    )


def read_pythons(text: str, versions: Sequence[str] = PYTHONS) -> dict[str, str]:
    """The path of an interpreter of each of these versions, in their order."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        version, _, path = line.partition(" ")
        if version in versions:
            found.setdefault(version, path)
    return {version: found[version] for version in versions if version in found}


def read_route(by_ip: str, by_python: str) -> str | None:
    """The interface on the route to the head.

    A node's route to itself leads through the loopback interface, so on the head the address
    counts: the interface is the one that holds it.
    """
    source = re.search(r"\bsrc (\S+)", by_ip)
    if source:
        holders = re.findall(r"^\d+: (\S+)\s+inet ([^/\s]+)", by_ip, re.MULTILINE)
        for interface, address in holders:
            if address == source[1]:
                return interface
        device = re.search(r"\bdev (\S+)", by_ip)
        return device[1] if device else None
    return by_python.split()[0] if by_python else None
