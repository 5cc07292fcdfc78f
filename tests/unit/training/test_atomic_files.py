"""Files are whole or absent, and what was there before stays, whatever the disk says."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training import atomic_files
from training.errors import UserError
from training.models.embeds import save_embeds


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The operating system refuses to write beyond `size` bytes of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    def refusing(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, refusing)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def write_two(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_text("new a")
    (folder / "inner" / "b").write_text("new b")


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    atomic_files.write_text(tmp_path / "one" / "two" / "a.txt", "blåbær\n")
    assert (tmp_path / "one" / "two" / "a.txt").read_bytes() == "blåbær\n".encode()
    assert names(tmp_path) == ["a.txt", "one", "two"]


def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        save_embeds(tmp_path / "a.safetensors", "<new>", torch.ones(1, 2))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file(
    function: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    refuse(monkeypatch, function, number)
    with pytest.raises(UserError) as raised:
        atomic_files.write_text(path, "new")
    assert str(raised.value).startswith(f"{path}: the disk is full")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_folder(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("old")
    refuse(monkeypatch, function, errno.ENOSPC)
    with pytest.raises(UserError, match="the disk is full"):
        atomic_files.write_directory(tmp_path / "run", write_two)
    assert names(tmp_path) == ["a", "run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")
    atomic_files.write_directory(tmp_path / "run", write_two)
    assert names(tmp_path) == ["a", "b", "inner", "run"]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".txt"])
def test_a_writer_that_the_system_stops_midway_leaves_the_old_file(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def write() -> None:
        if suffix == ".txt":
            atomic_files.write_text(path, "0" * 20_000)
        else:
            save_embeds(path, "<new>", torch.zeros(100, 768))

    with file_size_limit(10_000), pytest.raises(UserError) as raised:
        write()
    assert str(raised.value).startswith(f"{path}: the disk is full")
    assert path.read_text() == "old"
    assert names(tmp_path) == [path.name]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise KeyboardInterrupt

    for write in (atomic_files.write_file, atomic_files.write_directory):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a", fail)
        assert names(tmp_path) == []


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG]
)
def test_a_refusal_names_the_path_and_the_reason(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "replace", number)
    with pytest.raises(UserError) as raised:
        atomic_files.write_text(tmp_path / "a", "new")
    assert str(raised.value).startswith(
        f"{tmp_path / 'a'}: cannot be written ({os.strerror(number)})"
    )


def test_an_error_that_is_not_the_disks_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "replace", errno.EINVAL)
    with pytest.raises(OSError, match="Invalid argument"):
        atomic_files.write_text(tmp_path / "a", "new")


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a\.txt: cannot be written"):
        atomic_files.write_text(tmp_path / "file" / "a.txt", "new")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_move_replaces_what_is_there(kind: str, tmp_path: Path) -> None:
    source, destination = tmp_path / "new", tmp_path / "old"
    for path, text in ((source, "new"), (destination, "old")):
        if kind == "folder":
            path.mkdir()
        (path / "a" if kind == "folder" else path).write_text(text)
    atomic_files.move(source, destination)
    found = destination / "a" if kind == "folder" else destination
    assert found.read_text() == "new"
    assert not source.exists()
