"""What a command prints is taken from where it begins, and no more of it than was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.ssh import command_output
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.framing import KEPT, Mark, Unframed
from bootstrap.ssh.host import Host, local_host
from bootstrap.ssh.transfer import fetching, listing, whole_files

BIG = 64 << 20
LIMIT = 1 << 18


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


@pytest.mark.parametrize("noise", [b"", b"welcome", b"a\nb\n", b"\n", b"x" * (2 * KEPT)])
@pytest.mark.parametrize("step", [1, 1000, 10_000_000])
def test_what_comes_before_the_mark_is_left_out(noise: bytes, step: int) -> None:
    mark = Mark()
    own = b"\0own\n" + mark.line + b"more"
    if len(noise) > KEPT and step == 1:
        noise = noise[: KEPT + 5]
    whole = noise + mark.line + own
    unframed = Unframed(mark)
    pieces = [unframed.take(whole[at : at + step]) for at in range(0, len(whole), step)]
    assert b"".join(pieces) == own
    assert unframed.begun
    assert noise.endswith(unframed.before)


def test_without_the_mark_nothing_is_the_commands_own() -> None:
    unframed = Unframed(Mark())
    assert unframed.take(b"a" * 10 + Mark().line) == b""
    assert not unframed.begun
    assert unframed.before.startswith(b"a" * 10)


def test_more_text_than_any_answer_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "TEXT_LIMIT", LIMIT)
    logged: list[str] = []
    host = dataclasses.replace(host, log=logged.append)
    with pytest.raises(UserError, match=r"n0: .* printed more than .* and was ended"):
        host.run("yes")
    assert sum(len(line) + 1 for line in logged) < LIMIT + 1000
    with pytest.raises(UserError, match="printed more than"):
        host.run("yes >&2", keep=False)
    logged.clear()
    lines = 0

    def count(line: str) -> None:
        nonlocal lines
        lines += 1

    assert host.run("yes | head -n 200000", on_line=count, keep=False).stdout == ""
    assert lines == 200_000
    assert logged[-1] == "(what else it printed is not logged)"
    assert sum(len(line) + 1 for line in logged) < LIMIT + 1000


def test_a_line_without_end_is_told_in_pieces(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "LINE_LIMIT", 1 << 16)
    lines: list[str] = []
    host.run("head -c 300000 /dev/zero | tr '\\0' x", on_line=lines.append, keep=False)
    assert "".join(lines) == "x" * 300_000
    assert max(len(line) for line in lines) <= 2 << 16


def test_who_sends_faster_than_is_taken_waits() -> None:
    taking = Output("n0", "work", lambda line: None, keep=False)
    pieces = [taking.mark.line, *[b"x" * 1000] * (3 * command_output.PIECES)]

    def send() -> None:
        for piece in pieces:
            taking.out(piece)
        taking.out(b"")
        taking.err(b"")

    sender = threading.Thread(target=send)
    sender.start()
    while taking._events.qsize() < command_output.PIECES:
        time.sleep(0.01)
    assert sender.is_alive()
    taking.wait()
    sender.join()
    # One that nobody listens to any more does not wait for ever.
    for piece in pieces:
        taking.out(piece)


@pytest.mark.parametrize("size", [10, (1 << 20) + 10])
def test_no_more_is_taken_than_was_listed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A node lists a few bytes, then sends many: alone, and together with others."""
    there = tmp_path / "there"
    there.mkdir()
    with (there / "file").open("wb") as file:
        file.truncate(BIG)
    digest = hashlib.sha256(bytes(size)).hexdigest()
    monkeypatch.setattr(listing, "LIST", f"printf '{digest} {size} ./file\\0'")
    monkeypatch.setattr(fetching, "TOGETHER", 'cat "$1/file"')
    monkeypatch.setattr(fetching, "REST", 'cat "$1"')
    taken = 0

    def count(piece: int) -> None:
        nonlocal taken
        taken += piece

    with pytest.raises(UserError, match=f"n0: .*: more was sent than {size} bytes"):
        host.fetch(str(there), tmp_path / "here", count)
    assert taken <= size
    assert sum(path.stat().st_size for path in (tmp_path / "here").glob("*")) <= size


def test_a_listing_and_a_file_have_an_end_too(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (listing, whole_files):
        monkeypatch.setattr(module, "TEXT_LIMIT", 1 << 20)
    (tmp_path / "there").mkdir()
    with (tmp_path / "there" / "file").open("wb") as file:
        file.truncate(BIG)
    with pytest.raises(UserError, match="more was sent than 1048576 bytes"):
        host.read(str(tmp_path / "there" / "file"))
    monkeypatch.setattr(listing, "LIST", "yes")
    with pytest.raises(UserError, match=r"its list of .*: more was sent than"):
        host.fetch(str(tmp_path / "there"), tmp_path / "here")


def test_what_has_no_room_here_is_not_begun(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(listing, "LIST", f"printf '{'0' * 64} {10**17} ./file\\0'")
    with pytest.raises(UserError, match=r"has 93132257\.5 GiB that are not here, and .* has only"):
        host.fetch(str(tmp_path / "there"), tmp_path / "deep" / "here")
    assert not (tmp_path / "deep").exists()


def test_every_line_of_a_long_log_is_told(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\n\nb\r\nc\rd")
    lines: list[str] = []
    host.read_lines(str(log), lines.append)
    assert lines == ["a", "", "b", "c", "d"]
