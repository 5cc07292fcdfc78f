"""A folder handed from node to node: the real scripts, on nodes that are folders of this machine.

Each node's commands name the same absolute root, as they do on a cluster; here that name is
replaced by the node's own folder before the command runs. ssh is replaced by a script that does the
same and counts what travels.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.paths import Layout
from bootstrap.setup import broadcast as module
from bootstrap.setup import fanout
from bootstrap.setup.broadcast import Tree, broadcast, broadcast_each, missing, seal, untouched
from bootstrap.ssh.command import Command, script
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.host import Host
from bootstrap.ssh.transport import LocalTransport

ROOT = "/root-of-every-node"
SSH = """#!/bin/sh
# $1: the address, $2: the command.
echo "$SENDER $1" >> "{log}"
[ -e "{nodes}/$1/unplugged" ] && exit 255
exec sh -c "$(printf '%s' "$2" | sed "s|{root}|{nodes}/$1|g")"
"""


SECOND_RENAME = 'mv -T "$1" "$2"'


class FolderTransport(LocalTransport):
    """Of a node whose root is a folder of its own here."""

    def __init__(self, name: str, nodes: Path) -> None:
        super().__init__()
        self.place = nodes / name
        self.place.mkdir()
        (self.place / "cluster").mkdir()
        ssh = self.place / "cluster" / "ssh"
        log = nodes.parent / "transfers"
        ssh.write_text(SSH.format(nodes=nodes, root=ROOT, log=log).replace("$SENDER", name))
        ssh.chmod(0o755)

    def stream(self, command: Command, output: Output) -> None:
        """Where this node's root is named, its folder is meant; not in what goes to another."""
        line = command.line
        if "/cluster/ssh" in line:
            line = line.replace(f"{ROOT}/cluster/ssh", f"{self.place}/cluster/ssh")
            line = line.replace(f"tar -C {ROOT}", f"tar -C {self.place}")
        else:
            line = line.replace(ROOT, str(self.place))
        super().stream(dataclasses.replace(command, line=line), output)


class PlainTransport(FolderTransport):
    """One without OpenSSL."""

    def stream(self, command: Command, output: Output) -> None:
        """Its shell does not find it."""
        line = command.line
        assert "openssl" not in line or "command -v openssl" in line
        line = line.replace("command -v openssl", "false")
        super().stream(dataclasses.replace(command, line=line), output)


class KilledTransport(FolderTransport):
    """One that dies between the two renames that put a folder in another's place."""

    def stream(self, command: Command, output: Output) -> None:
        """The shell kills itself before the second."""
        assert module.PUT_IN_PLACE.count(SECOND_RENAME) == 1
        line = command.line.replace(SECOND_RENAME, "kill -9 $$")
        super().stream(dataclasses.replace(command, line=line), output)


def folder_host(name: str, nodes: Path, kind: type[FolderTransport] = FolderTransport) -> Host:
    return Host(Node(name, name), Layout(ROOT), kind(name, nodes))


def place(host: Host) -> Path:
    assert isinstance(host.transport, FolderTransport)
    return host.transport.place


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    (tmp_path / "nodes").mkdir()
    return [folder_host(f"n{number}", tmp_path / "nodes") for number in range(5)]


def fill(host: Host, **files: str) -> Path:
    folder = folder_of(host)
    for name, content in {
        "a.txt": "one", "deep/er/b c.txt": "two", "it's.txt": "three", **files,
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def folder_of(host: Host) -> Path:
    return place(host) / "data" / "five"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def transfers(tmp_path: Path) -> list[str]:
    log = tmp_path / "transfers"
    return log.read_text().splitlines() if log.exists() else []


def give(hosts: list[Host], said: list[str] | None = None) -> dict[str, UserError]:
    def say(host: Host, text: str) -> None:
        if said is not None:
            said.append(f"{host.name}: {text}")

    tree = seal(hosts[0], f"{ROOT}/data/five")
    return broadcast(tree, hosts[:1], hosts[1:], say)


def test_every_node_has_it_and_the_head_did_not_send_it_to_all(
    hosts: list[Host], tmp_path: Path
) -> None:
    fill(hosts[0])
    assert give(hosts) == {}
    for host in hosts[1:]:
        assert contents(folder_of(host)) == contents(folder_of(hosts[0]))
        assert sorted(path.name for path in folder_of(host).parent.iterdir()) == [
            "five",
            "five.sha256",
        ]
    senders = [line.split()[0] for line in transfers(tmp_path)]
    assert len(senders) == 4
    assert senders.count("n0") < 4


def test_a_second_time_nothing_travels(hosts: list[Host], tmp_path: Path) -> None:
    fill(hosts[0])
    give(hosts)
    before = transfers(tmp_path)
    assert give(hosts) == {}
    assert transfers(tmp_path) == before


def test_only_what_differs_travels_and_what_is_gone_goes(hosts: list[Host]) -> None:
    folder = fill(hosts[0])
    give(hosts)
    inode = (folder_of(hosts[1]) / "a.txt").stat().st_ino
    (folder / "deep/er/b c.txt").write_text("changed")
    (folder / "it's.txt").unlink()
    hosts[0].run(f"rm {ROOT}/data/five.sha256")
    said: list[str] = []
    assert give(hosts, said) == {}
    assert all("1 of 2 files" in line for line in said), said
    for host in hosts[1:]:
        assert contents(folder_of(host)) == {"a.txt": "one", "deep/er/b c.txt": "changed"}
    assert (folder_of(hosts[1]) / "a.txt").stat().st_ino == inode


@pytest.mark.parametrize("number", [0, 1])
def test_a_changed_picture_is_noticed_though_its_time_was_kept(
    hosts: list[Host], number: int
) -> None:
    fill(hosts[0])
    assert give(hosts) == {}
    path = folder_of(hosts[number]) / "a.txt"
    times = path.stat()
    path.write_text("eno")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [untouched(host, f"{ROOT}/data/five") for host in hosts[:2]] == [
        number != 0,
        number != 1,
    ]
    if number:
        assert give(hosts) == {}
        assert path.read_text() == "one"


def test_of_a_large_folder_the_times_are_believed(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNTOUCHED", module.UNTOUCHED.replace(f"-lt {64 << 10}", "-lt 0"))
    fill(hosts[0])
    assert give(hosts) == {}
    assert untouched(hosts[1], f"{ROOT}/data/five")
    path = folder_of(hosts[1]) / "a.txt"
    later = folder_of(hosts[1]).with_suffix(".sha256").stat().st_mtime + 5
    os.utime(path, (later, later))
    assert not untouched(hosts[1], f"{ROOT}/data/five")


def test_what_a_cut_transfer_left_is_checked_and_used(hosts: list[Host], tmp_path: Path) -> None:
    fill(hosts[0])
    partial = folder_of(hosts[1]).with_name("five.partial")
    partial.mkdir(parents=True)
    (partial / "a.txt").write_text("one")
    (partial / "it's.txt").write_text("thr")  # cut
    (partial / "stale").write_text("of another time")
    tree = seal(hosts[0], f"{ROOT}/data/five")
    assert missing(hosts[1], tree) == ["./deep/er/b c.txt", "./it's.txt"]
    assert not folder_of(hosts[1]).exists()
    assert give(hosts) == {}
    assert contents(folder_of(hosts[1])) == contents(folder_of(hosts[0]))


def test_a_node_that_cannot_be_reached_is_named_and_the_others_finish(hosts: list[Host]) -> None:
    fill(hosts[0])
    unplugged = hosts[2]
    (place(unplugged) / "unplugged").touch()
    failed = give(hosts)
    assert list(failed) == ["n2"]
    assert not folder_of(unplugged).exists()
    for host in (hosts[1], hosts[3], hosts[4]):
        assert contents(folder_of(host)) == contents(folder_of(hosts[0]))
    (place(unplugged) / "unplugged").unlink()
    assert give(hosts) == {}
    assert contents(folder_of(unplugged)) == contents(folder_of(hosts[0]))


def test_what_arrives_damaged_never_gets_its_name(hosts: list[Host]) -> None:
    fill(hosts[0])
    tree = seal(hosts[0], f"{ROOT}/data/five")
    (folder_of(hosts[0]) / "a.txt").write_text("changed behind our back")
    failed = broadcast(tree, hosts[:1], hosts[1:2], lambda host, text: None)
    assert "a.txt" in str(failed["n1"])
    assert not folder_of(hosts[1]).exists()


def test_what_a_killed_node_was_replacing_has_its_name_again(
    hosts: list[Host], tmp_path: Path
) -> None:
    fill(hosts[0])
    dying = folder_host("n9", tmp_path / "nodes", KilledTransport)
    fill(dying, **{"a.txt": "older"})
    assert set(give([hosts[0], dying])) == {"n9"}
    assert not folder_of(dying).exists()
    tree = seal(hosts[0], f"{ROOT}/data/five")
    assert missing(dying, tree) == []  # all of it has arrived
    assert (folder_of(dying) / "a.txt").read_text() == "older"
    assert not folder_of(dying).with_name("five.old").exists()


def test_a_folder_that_cannot_be_put_in_place_leaves_the_one_that_was_there(
    hosts: list[Host],
) -> None:
    fill(hosts[0])
    place = folder_of(hosts[0])
    finished = hosts[0].run(
        script(module.PUT_IN_PLACE, f"{ROOT}/data/nothing", f"{ROOT}/data/five"), check=False
    )
    assert finished.exit_code != 0
    assert (place / "a.txt").read_text() == "one"
    assert [path.name for path in place.parent.iterdir()] == ["five"]


def test_names_that_cannot_be_handed_out_are_refused(hosts: list[Host]) -> None:
    folder = fill(hosts[0])
    (folder / "two\nlines").write_text("x")
    with pytest.raises(UserError, match="line break"):
        seal(hosts[0], f"{ROOT}/data/five")


def test_a_manifest_is_what_sha256sum_reads(hosts: list[Host]) -> None:
    fill(hosts[0])
    tree = seal(hosts[0], f"{ROOT}/data/five")
    assert tree == Tree(f"{ROOT}/data/five", tree.manifest)
    checked = hosts[0].run(
        f"cd {shlex.quote(tree.path)} && sha256sum --check -", stdin=tree.manifest.encode()
    )
    assert checked.stdout.count(": OK") == tree.files == 3


def test_one_folder_travels_while_the_next_is_made(hosts: list[Host]) -> None:
    """The second is made only once the first has arrived everywhere."""
    first, second = f"{ROOT}/data/five", f"{ROOT}/data/six"

    def trees() -> Iterator[Tree]:
        fill(hosts[0])
        yield seal(hosts[0], first)
        end = time.monotonic() + 60
        while not all((folder_of(host).parent / "five.sha256").exists() for host in hosts[1:]):
            assert time.monotonic() < end, "it is handed out only when all are made"
            time.sleep(0.05)
        hosts[0].run(["cp", "-r", first, second])
        yield seal(hosts[0], second)

    assert broadcast_each(trees(), hosts[:1], hosts[1:], lambda host, text: None) == {}
    for host in hosts[1:]:
        assert contents(folder_of(host).parent / "six") == contents(folder_of(hosts[0]))


def test_where_one_cannot_be_made_those_before_it_have_arrived(hosts: list[Host]) -> None:
    def trees() -> Iterator[Tree]:
        fill(hosts[0])
        yield seal(hosts[0], f"{ROOT}/data/five")
        raise UserError("the index is gone")

    with pytest.raises(UserError, match="the index is gone"):
        broadcast_each(trees(), hosts[:1], hosts[1:], lambda host, text: None)
    assert contents(folder_of(hosts[4])) == contents(folder_of(hosts[0]))


def test_a_node_that_failed_is_not_sent_the_next_one(hosts: list[Host], tmp_path: Path) -> None:
    unplugged = hosts[2]
    (place(unplugged) / "unplugged").touch()

    def trees() -> Iterator[Tree]:
        fill(hosts[0])
        yield seal(hosts[0], f"{ROOT}/data/five")
        hosts[0].run(["cp", "-r", f"{ROOT}/data/five", f"{ROOT}/data/six"])
        yield seal(hosts[0], f"{ROOT}/data/six")

    assert set(broadcast_each(trees(), hosts[:1], hosts[1:], lambda host, text: None)) == {"n2"}
    assert sum(line.endswith(" n2") for line in transfers(tmp_path)) == fanout.TRIES


def test_nodes_without_openssl_check_and_hand_out_alike(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    plain = [folder_host(f"n{i}", tmp_path / "nodes", PlainTransport) for i in range(3)]
    fill(plain[0], **{"naïve name; $(false).txt": "four"})
    assert give(plain) == {}
    (folder_of(plain[1]) / "a.txt").write_text("changed")
    assert give(plain) == {}
    assert contents(folder_of(plain[1])) == contents(folder_of(plain[0]))
    tree = seal(plain[0], f"{ROOT}/data/five")
    with_openssl = folder_host("n3", tmp_path / "nodes")
    assert broadcast(tree, plain[:1], [with_openssl], lambda host, text: None) == {}
    assert contents(folder_of(with_openssl)) == contents(folder_of(plain[0]))
    (folder_of(plain[0]) / "a.txt").write_text("changed behind our back")
    again = folder_host("n4", tmp_path / "nodes", PlainTransport)
    failed = broadcast(tree, plain[:1], [again], lambda host, text: None)
    assert "a.txt" in str(failed["n4"])
