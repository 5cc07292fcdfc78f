"""Where the ranks of a run meet: a store that listens on one address, or a file of this account's.

What another process puts into it would be believed. So it listens on the address that the ranks
were given and on no other, and a file lies in a folder that nobody else can enter.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from training.errors import UserError
from training.ranks.launcher import Ranks

RENDEZVOUS_SECONDS = 300
"""How long the first rank to start waits for the last."""
JOB_NAMES = ("I_MPI_HYDRA_UUID", "PMIX_NAMESPACE")
"""What MPI's launchers call one job, the same for all of its ranks and new each time."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Set to "True" by torchrun, whose agent keeps the store, and listens for it, by itself."""


def rendezvous_endpoint(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """A file on a single machine, or the launcher's master address as host:port.

    Raises:
        UserError: MASTER_ADDR is not set, though the ranks are on several machines or no launcher
            started them; MASTER_PORT is not a port; or somebody else has put something where the
            file would lie.
    """
    job = next((environment[key] for key in JOB_NAMES if key in environment), None)
    together = ranks.local_size == ranks.size
    if together and job and environment.get(AGENT_STORE) != "True":
        return str(private_folder() / job)
    if "MASTER_ADDR" in environment:
        return f"{environment['MASTER_ADDR']}:{_port(environment)}"
    if not together:
        raise UserError(
            f"{ranks.size} ranks on several machines, but MASTER_ADDR is not set: "
            "export it as the first node's address (and MASTER_PORT if 29500 is taken)."
        )
    if ranks.launcher == "torchrun":
        raise UserError(
            f"{ranks.size} ranks (WORLD_SIZE), but MASTER_ADDR is not set: start them with mpirun "
            "or torchrun, or export MASTER_ADDR=127.0.0.1 and MASTER_PORT, a free port."
        )
    return str(private_folder() / _parent())


def _port(environment: Mapping[str, str]) -> int:
    port = environment.get("MASTER_PORT", "29500")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"MASTER_PORT {port!r}: is not a port, a number from 1 to 65535.")
    return int(port)


def private_folder() -> Path:
    """A folder among the temporary ones that this account alone can enter.

    Raises:
        UserError: there is something else of its name.
    """
    folder = Path(tempfile.gettempdir()) / f"ranks-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    if not ours or stat.S_IMODE(about.st_mode) & 0o077:
        raise UserError(
            f"{folder}: the ranks would meet there, but it is not a folder that this account alone "
            "can enter: remove it, or set TMPDIR to a folder of your own."
        )
    return folder


def _parent() -> str:
    """Ranks of one launcher share a parent; its start time tells it from an earlier namesake."""
    stat_file = Path(f"/proc/{os.getppid()}/stat")
    started = "0"
    if stat_file.exists():
        started = stat_file.read_text().rsplit(")", 1)[1].split()[19]
    return f"{os.getppid()}-{started}"


def open_store(place: str, ranks: Ranks, environment: Mapping[str, str]) -> Store:
    """The store at `place`, which the first rank keeps, or torchrun's own agent.

    Raises:
        RuntimeError, OSError: the ranks did not all come, or the port is taken.
        UserError: the others could not reach the first rank at that address.
    """
    if place.startswith("/"):
        return FileStore(place, ranks.size)
    host, port = place.rsplit(":", 1)
    timeout = datetime.timedelta(seconds=RENDEZVOUS_SECONDS)
    if environment.get(AGENT_STORE) == "True":
        # The agent's store outlives ranks that torchrun starts anew, with all that they put there.
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        kept = TCPStore(host, int(port), ranks.size, False, timeout=timeout, use_libuv=False)
        return PrefixStore(f"attempt-{attempt}", kept)
    if not ranks.is_main_process:
        return TCPStore(host, int(port), ranks.size, False, timeout=timeout, use_libuv=False)
    with listening(host, int(port), ranks.local_size < ranks.size) as listener:
        return TCPStore(
            host, int(port), ranks.size, True, timeout=timeout, use_libuv=False,
            master_listen_fd=os.dup(listener.fileno()),
        )  # fmt: skip


def listening(host: str, port: int, others: bool) -> socket.socket:
    """A socket bound to the one address that `host` names here, for the store to listen on.

    Where this machine does not have that address, as behind a router that translates it, it is the
    one that this machine's packets to there come from.

    Args:
        others: machines have to reach it, too.

    Raises:
        OSError: the port is taken, or nobody knows the host.
        UserError: `host` is this machine's name for itself alone.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    outside = [each for each in found if not ip_address(each[4][0]).is_loopback]
    if others and not outside and not _is_loopback(host):
        raise UserError(
            f"MASTER_ADDR {host}: is {found[0][4][0]} on this machine itself (/etc/hosts), where "
            "no other can reach it: export its address on the cluster's network."
        )
    refused: OSError | None = None
    for family, kind, protocol, _, address in outside or found:
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            _bind(listener, address)
        except OSError as error:
            listener.close()
            refused = refused or error
        else:
            return listener
    assert refused is not None, "a host without an address is unknown"
    raise refused


def _bind(listener: socket.socket, address: tuple[Any, ...]) -> None:
    try:
        listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        listener.bind((source_address(str(address[0])), *address[1:]))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def source_address(host: str) -> str:
    """The address of this machine that its packets to `host` come from; none is sent.

    Raises:
        OSError: there is no way to it.
    """
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def interface_to(host: str) -> str | None:
    """The name of this machine's interface on the way to `host`; None: it is not to be found."""
    try:
        source = source_address(host)
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == source for each in addresses):
            return str(name)
    return None
