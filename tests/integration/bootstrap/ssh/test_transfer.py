"""Files to and from nodes, over a real sshd."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.errors import ConnectionLost, UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.ssh.host import Host
from bootstrap.ssh.local_files import PARTIAL
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.ssh.transfer import fetching, listing
from tests.sshd import Sshd, make_key, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with serving(tmp_path / "server", make_key(tmp_path / "person" / "key")) as running:
        yield running


def connected(server: Sshd) -> Inventory:
    node = Node("node", server.address, port=server.port)
    key = Path(os.environ["HOME"]) / "key"
    return Inventory("t", "file", (node,), user=getpass.getuser(), ssh_private_key_path=key)


@pytest.fixture
def host(server: Sshd) -> Iterator[Host]:
    with open_hosts(connected(server), lambda question: True) as hosts:
        yield hosts[0]


@pytest.fixture
def there(server: Sshd) -> Path:
    """A folder that is the node's."""
    return server.folder / "there"


def tree(folder: Path) -> Path:
    """Small and large files, odd names, a link."""
    (folder / "sub" / "empty").parent.mkdir(parents=True)
    (folder / "sub" / "empty").touch()
    (folder / "a picture, no 1.png").write_bytes(os.urandom(1000))
    (folder / "größe$(x)'.txt").write_text("text")
    (folder / "large").write_bytes(os.urandom(3 << 20))
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o755)
    (folder / "link").symlink_to(folder / "large")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_there_and_back(host: Host, there: Path, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    host.send(source, str(there))
    assert content(there) == content(source)
    assert (there / "program").stat().st_mode & 0o111
    assert not (there / "link").is_symlink()
    host.fetch(str(there), tmp_path / "back")
    assert content(tmp_path / "back") == content(source)


def test_only_what_differs_travels(host: Host, there: Path, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    host.send(source, str(there))
    sent: list[int] = []
    host.send(source, str(there), sent.append)
    assert sent == []
    untouched = (there / "large").stat().st_mtime_ns
    # Same size, other content.
    picture = source / "a picture, no 1.png"
    picture.write_bytes(os.urandom(1000))
    host.send(source, str(there), sent.append)
    assert 1000 < sum(sent) < 20_000
    assert content(there) == content(source)
    assert (there / "large").stat().st_mtime_ns == untouched
    fetched: list[int] = []
    host.fetch(str(there), tmp_path / "back", fetched.append)
    assert sum(fetched) > 3 << 20
    fetched.clear()
    (there / "a picture, no 1.png").write_bytes(b"new")
    host.fetch(str(there), tmp_path / "back", fetched.append)
    assert sum(fetched) < 20_000
    assert content(tmp_path / "back") == content(there)


def test_what_else_lies_there_stays_unless_asked(host: Host, there: Path, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    there.mkdir()
    (there / "old").write_text("old")
    host.send(source, str(there))
    assert (there / "old").exists()
    host.send(source, str(there), exact=True)
    assert content(there) == content(source)


def test_single_files(host: Host, there: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text("small")
    large.write_bytes(os.urandom(2 << 20))
    for file in (small, large):
        host.send(file, str(there / "as" / f"{file.name} there"))
        host.fetch(str(there / "as" / f"{file.name} there"), tmp_path / "back" / file.name)
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    assert sorted(content(there)) == ["as/large there", "as/small there"]


def test_a_cut_send_goes_on_where_it_was(server: Sshd, there: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(48 << 20))
    sent = 0

    def cut(count: int) -> None:
        nonlocal sent
        sent += count
        if sent > 24 << 20:
            server.cut()

    with open_hosts(connected(server), lambda q: True) as hosts, pytest.raises(ConnectionLost):
        hosts[0].send(source, str(there / "large"), cut)
    assert not (there / "large").exists()
    again: list[int] = []
    with open_hosts(connected(server), lambda q: True) as hosts:
        hosts[0].send(source, str(there / "large"), again.append)
    assert (there / "large").read_bytes() == source.read_bytes()
    assert sum(again) < 40 << 20


def test_a_cut_fetch_goes_on_where_it_was(server: Sshd, there: Path, tmp_path: Path) -> None:
    there.mkdir()
    (there / "large").write_bytes(os.urandom(48 << 20))
    fetched = 0

    def cut(count: int) -> None:
        nonlocal fetched
        fetched += count
        if fetched > 24 << 20:
            server.cut()

    with open_hosts(connected(server), lambda q: True) as hosts, pytest.raises(ConnectionLost):
        hosts[0].fetch(str(there / "large"), tmp_path / "back", cut)
    assert not (tmp_path / "back").exists()
    again: list[int] = []
    with open_hosts(connected(server), lambda q: True) as hosts:
        hosts[0].fetch(str(there / "large"), tmp_path / "back", again.append)
    assert (tmp_path / "back").read_bytes() == (there / "large").read_bytes()
    assert sum(again) < 40 << 20


def test_a_damaged_rest_of_an_earlier_send_is_no_harm(
    host: Host, there: Path, tmp_path: Path
) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(2 << 20))
    there.mkdir()
    digest = listing.entry_of(source).sha256[:12]
    (there / f"large{PARTIAL}{digest}").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="arrived damaged"):
        host.send(source, str(there / "large"))
    host.send(source, str(there / "large"))
    assert (there / "large").read_bytes() == source.read_bytes()


def test_a_file_that_grows_is_fetched_as_far_as_it_was(
    host: Host, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.mkdir()
    events = there / "events.jsonl"
    events.write_text("one\n")
    listed = listing.listed

    def listed_and_grown(where: Host, path: str) -> dict[str, listing.Entry]:
        entries = listed(where, path)
        events.write_text("one\ntwo\n")
        return entries

    monkeypatch.setattr(fetching, "listed", listed_and_grown)
    host.fetch(str(there), tmp_path / "back")
    assert (tmp_path / "back" / "events.jsonl").read_text() == "one\n"


def test_writing_is_whole_or_not_at_all(host: Host, there: Path) -> None:
    host.write(str(there / "deep" / "token"), b"\0secret\xff", 0o600)
    assert host.read(str(there / "deep" / "token")) == b"\0secret\xff"
    assert (there / "deep" / "token").stat().st_mode & 0o777 == 0o600
    host.write(str(there / "deep" / "token"), b"", 0o644)
    assert (there / "deep" / "token").read_bytes() == b""
    assert len(list((there / "deep").iterdir())) == 1


def test_what_is_not_there_is_said(host: Host, there: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"node: .*gone.* cannot be read"):
        host.read(str(there / "gone"))
    with pytest.raises(UserError, match="does not exist there"):
        host.fetch(str(there / "gone"), tmp_path / "x")
    with pytest.raises(UserError, match="nothing to send"):
        host.send(tmp_path / "gone", str(there))
