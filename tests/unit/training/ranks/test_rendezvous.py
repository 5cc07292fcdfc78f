"""Where ranks meet: on one address, or in a folder of this account's own."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from torch._C._distributed_c10d import TCPStore

from training.errors import UserError
from training.ranks import rendezvous
from training.ranks.launcher import Ranks
from training.ranks.rendezvous import (
    interface_to,
    listening,
    open_store,
    rendezvous_endpoint,
    source_address,
)

HERE, APART = (2, 2), (4, 2)
"""Ranks in all and on this machine."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def rank(number: int, sizes: tuple[int, int] = HERE) -> Ranks:
    return Ranks("a launcher", number, sizes[0], number, sizes[1])


def listeners(port: int) -> list[str]:
    """The addresses that this process listens on at a port."""
    found = psutil.Process().net_connections(kind="tcp")
    return [
        each.laddr.ip
        for each in found
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize("sizes", [HERE, APART])
def test_the_store_listens_on_the_address_that_the_ranks_were_given(
    sizes: tuple[int, int],
) -> None:
    port = free_port()
    place = f"127.0.0.1:{port}"
    ranks = [rank(number, sizes) for number in range(sizes[0])]
    with ThreadPoolExecutor(len(ranks)) as pool:
        stores = list(pool.map(lambda me: open_store(place, me, {}), ranks))
    assert listeners(port) == ["127.0.0.1"]
    stores[0].set("a", "b")
    assert [store.get("a") for store in stores] == [b"b"] * len(stores)


def test_a_taken_port_is_an_error_of_the_systems() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listening("127.0.0.1", taken.getsockname()[1], False)


def test_behind_a_translating_router_it_is_the_address_of_this_machine_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendezvous, "source_address", lambda host: "127.0.0.1")
    with listening("203.0.113.7", 0, True) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_name_that_is_loopback_here_is_refused_where_others_have_to_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up = socket.getaddrinfo
    known = {"xeon-0": "127.0.1.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **named: looked_up(
            known.get(host, host), *more, **named
        ),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"MASTER_ADDR xeon-0: is 127\.0\.1\.1 on this machine"):
        listening("xeon-0", 0, True)
    with listening("xeon-0", 0, False) as listener:
        assert listener.getsockname()[0] == "127.0.1.1"


@pytest.mark.parametrize(
    ("variables", "sizes", "place"),
    [
        ({"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "7"}, APART, "10.0.0.4:7"),
        ({"MASTER_ADDR": "10.0.0.4"}, HERE, "10.0.0.4:29500"),
        ({"MASTER_ADDR": "10.0.0.4", "I_MPI_HYDRA_UUID": "a"}, APART, "10.0.0.4:29500"),
        ({"MASTER_ADDR": "10.0.0.4", "I_MPI_HYDRA_UUID": "a"}, HERE, "a"),
        ({"I_MPI_HYDRA_UUID": "a"}, HERE, "a"),
        (
            {
                "MASTER_ADDR": "h",
                "I_MPI_HYDRA_UUID": "a",
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
            HERE,
            "h:29500",
        ),
    ],
)
def test_where_ranks_meet(
    variables: dict[str, str], sizes: tuple[int, int], place: str, temporary: Path
) -> None:
    if ":" not in place:
        place = str(temporary / f"ranks-{os.getuid()}" / place)
    assert rendezvous_endpoint(rank(1, sizes), variables) == place


@pytest.mark.parametrize("port", ["99999", "0", "abc", ""])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(UserError, match="is not a port, a number from 1 to 65535"):
        rendezvous_endpoint(rank(0), {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": port})


def test_ranks_that_no_launcher_started_are_told_where_to_meet() -> None:
    """The parent they share, a shell, would lead the next ones to what these left."""
    with pytest.raises(UserError, match=r"export MASTER_ADDR=127\.0\.0\.1"):
        rendezvous_endpoint(Ranks("torchrun", 0, 2, 0, 2), {})


def test_ranks_that_are_started_anew_do_not_read_what_the_first_ones_left() -> None:
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=False)
    place = f"127.0.0.1:{agent.port}"
    torchrun = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    open_store(place, rank(0), torchrun).set("failed", "yes")
    assert open_store(place, rank(1), torchrun).check(["failed"])
    assert not open_store(place, rank(1), {**torchrun, "TORCHELASTIC_RESTART_COUNT": "1"}).check(
        ["failed"]
    )


def test_a_file_lies_where_nobody_else_comes(temporary: Path) -> None:
    mask = os.umask(0)
    try:
        place = Path(rendezvous_endpoint(rank(0), {}))
    finally:
        os.umask(mask)
    assert place.parent.parent == temporary
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert Path(rendezvous_endpoint(rank(1), {})) == place  # the same for the ranks of one launcher


@pytest.mark.parametrize("planted", ["link", "file", "open"])
def test_what_somebody_else_has_put_there_is_refused(planted: str, temporary: Path) -> None:
    folder = temporary / f"ranks-{os.getuid()}"
    if planted == "link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(temporary / "elsewhere")
    elif planted == "file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UserError, match="not a folder that this account alone can enter"):
        rendezvous_endpoint(rank(0), {"I_MPI_HYDRA_UUID": "a"})


def test_the_interface_on_the_way() -> None:
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert (interface_to("127.0.0.1") or "").startswith("lo")
    assert interface_to("no such host") is None
