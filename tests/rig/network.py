"""The rig's network: a switch in a namespace of its own, a cable to each host, the head's uplink.

The private network exists only inside the rig's namespaces. This machine has one end of the head's
uplink and nothing else, so it reaches the head and no worker, as a person reaches a cluster.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.rig import anchors
from tests.rig.commands import RigError, in_network, ip_batch, run

PRIVATE = IPv4Network("10.77.0.0/24")
# Set aside for tests of network devices (RFC 2544): no real network has it.
UPLINKS = IPv4Network("198.18.0.0/22")
FIRST_ADDRESS = 4
"""Azure keeps the first addresses of a subnet to itself, and so do we."""
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@dataclass(frozen=True)
class Counters:
    """Bytes that a host's interfaces have carried since the host was switched on."""

    private_in: int = 0
    private_out: int = 0
    uplink_in: int = 0
    uplink_out: int = 0


class Network:
    """The cables of one rig.

    Attributes:
        slot: the rig's number, which picks the addresses of the uplink.
        size: how many hosts there are.
    """

    def __init__(self, slot: int, size: int, folder: Path, private: IPv4Network = PRIVATE) -> None:
        self.slot = slot
        self.size = size
        self.private = private
        self._log = folder / "switch.log"
        self._mark = f"{slot}/switch"
        uplink = list(UPLINKS.subnets(new_prefix=30))[slot]
        self.outside, self.public = uplink.network_address + 1, uplink.network_address + 2
        self.link = f"rig{slot}"

    def address(self, index: int) -> IPv4Address:
        """A host's private address."""
        return self.private.network_address + FIRST_ADDRESS + index

    def switch_on(self) -> None:
        """Make the switch."""
        script = "echo ready; exec sleep infinity >/dev/null"
        pid = anchors.start(self._mark, ["unshare", "--net", "sh", "-c", script], self._log)
        ip_batch(["link add switch type bridge", "link set switch up"], pid)
        _forget_ipv6(pid)

    def switch_off(self) -> None:
        """Remove the switch with every cable in it, and the uplink."""
        anchors.end(self._mark)
        run("ip", "link", "delete", self.link, check=False)

    def plug_in(self, index: int, pid: int) -> None:
        """Give a host, of which `pid` is a process, its interfaces: eth0, and for the head eth1."""
        _forget_ipv6(pid)
        hardware = self._hardware(index)
        ip_batch(
            [
                f"link add port{index} type veth peer name eth0 address {hardware} netns {pid}",
                f"link set port{index} master switch up",
            ],
            self._switch(),
        )
        length = self.private.prefixlen
        # As in Azure, where the network and not the neighbour tells its hardware address: a host
        # that does not answer is met with silence, never with "no route to host".
        neighbours = [
            f"neighbour add {self.address(i)} lladdr {self._hardware(i)} dev eth0 nud permanent"
            for i in range(self.size)
            if i != index
        ]
        ip_batch(
            [
                "link set lo up",
                f"address add {self.address(index)}/{length} broadcast + dev eth0",
                "link set eth0 up",
                *neighbours,
            ],
            pid,
        )
        if index == 0:
            self._plug_in_uplink(pid)

    def unplug(self, index: int) -> None:
        """Pull a host's cables out: nothing that it still has to say is heard."""
        in_network(self._switch(), "sh", "-c", f"ip link delete port{index} || true")
        if index == 0:
            run("ip", "link", "delete", self.link, check=False)

    def set_rate(self, rate: str | None, index: int, pid: int) -> None:
        """Let a host's private interface carry at most `rate` each way; None: as fast as it can."""
        for namespace, interface in ((pid, "eth0"), (self._switch(), f"port{index}")):
            _set_rate(rate, namespace, interface)

    def set_uplink_rate(self, rate: str | None, pid: int) -> None:
        """Let the head's uplink, the way to the person and the internet, carry at most `rate`."""
        _set_rate(rate, pid, "eth1")
        _set_rate(rate, os.getpid(), self.link)

    def cut(self, index: int) -> None:
        """The switch forwards nothing from or to this host, which keeps its interface."""
        self._port_state(index, 0)

    def mend(self, index: int) -> None:
        """Undo `cut`."""
        self._port_state(index, 3)

    def cut_uplink(self, pid: int) -> None:
        """Drop everything between the person and the head, without a word to either."""
        for chain, option in (("INPUT", "-i"), ("OUTPUT", "-o")):
            in_network(pid, "iptables", "-w", "-A", chain, option, "eth1", "-j", "DROP")

    def mend_uplink(self, pid: int) -> None:
        """Undo `cut_uplink`."""
        for chain, option in (("INPUT", "-i"), ("OUTPUT", "-o")):
            in_network(pid, "iptables", "-w", "-D", chain, option, "eth1", "-j", "DROP")

    def block(self, pid: int, other: int) -> None:
        """A host drops what comes from another one and what goes there."""
        self._rules("-A", pid, other)

    def unblock(self, pid: int, other: int) -> None:
        """Undo `block`."""
        self._rules("-D", pid, other)

    def _hardware(self, index: int) -> str:
        """The same every time that a host is started."""
        return "02:00:" + ":".join(f"{byte:02x}" for byte in self.address(index).packed)

    def _rules(self, action: str, pid: int, other: int) -> None:
        address = str(self.address(other))
        for chain, option in (("INPUT", "-s"), ("OUTPUT", "-d")):
            in_network(pid, "iptables", "-w", action, chain, option, address, "-j", "DROP")

    def _plug_in_uplink(self, pid: int) -> None:
        # This machine's own end first, so that whoever cleans up after a crash finds it by name.
        ip_batch(
            [
                f"link add {self.link} type veth peer name eth1 netns {pid}",
                f"address add {self.outside}/30 dev {self.link}",
                f"link set {self.link} up",
            ]
        )
        # A machine that forwards (one with Docker does) must not carry a host's packets elsewhere.
        with suppress(OSError):
            Path(f"/proc/sys/net/ipv4/conf/{self.link}/forwarding").write_text("0")
        with suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{self.link}/disable_ipv6").write_text("1")
        ip_batch(
            [
                f"address add {self.public}/30 dev eth1",
                "link set eth1 up",
                f"route add default via {self.outside}",
            ],
            pid,
        )

    def _port_state(self, index: int, state: int) -> None:
        in_network(
            self._switch(), "bridge", "link", "set", "dev", f"port{index}", "state", str(state)
        )

    def _switch(self) -> int:
        pids = anchors.find(self._mark)
        if not pids:
            raise RigError(f"The switch of rig {self.slot} is off.")
        return pids[0]


def counters(pid: int) -> Counters:
    """What the interfaces of a host have carried, `pid` being one of its processes."""
    carried = {"eth0": (0, 0), "eth1": (0, 0)}
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        carried[name.strip()] = (int(fields[0]), int(fields[8]))
    return Counters(*carried["eth0"], *carried["eth1"])


def bits_per_second(rate: str) -> float:
    """The number that a rate such as 100mbit stands for."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]bit)", rate)
    if not match or not float(match[1]):
        raise RigError(f"{rate!r} is not a rate: write it as 1gbit, 100mbit or 500kbit.")
    return float(match[1]) * UNITS[match[2]]


def _set_rate(rate: str | None, pid: int, interface: str) -> None:
    if rate is None:
        script = f"tc qdisc delete dev {interface} root 2>/dev/null || true"
        in_network(pid, "sh", "-c", script)
        return
    # The bucket holds what the link carries in 2 ms, and never less than one offloaded packet.
    bucket = max(int(bits_per_second(rate) / 8 * 0.002), 66_000)
    limit = f"root tbf rate {rate} burst {bucket} latency 50ms"
    in_network(pid, *f"tc qdisc replace dev {interface} {limit}".split())


def _forget_ipv6(pid: int) -> None:
    # Its chatter would show in the byte counters. Where the kernel has none, there is no such file.
    script = (
        "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 2>/dev/null >$f; done; true"
    )
    in_network(pid, "sh", "-c", script)
