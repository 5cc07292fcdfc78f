"""What of a folder here leaves this machine: what lies in it, and nothing that it links to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup import model_and_data
from bootstrap.ssh.host import local_host
from bootstrap.ssh.local_files import PARTIAL, files_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    (made / "a").mkdir(parents=True)
    for name in ("a/1.png", "a.png", "b.png"):
        (made / name).write_bytes(name.encode())
    return made


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    made = tmp_path / "ssh"
    made.mkdir()
    (made / "id_ed25519").write_text("secret")
    return made


def test_the_listing_that_is_hashed_is_the_one_that_is_sent(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("b.png")
    (folder / "a" / "up.png").symlink_to(folder / "b.png")
    os.mkfifo(folder / "fifo.png")
    (folder / f"b.png{PARTIAL}x").touch()
    assert list(files_of(folder)) == ["a.png", "a/1.png", "a/up.png", "b.png", "link.png"]
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    tree = model_and_data.fetch_to_head(
        host, model_and_data.read_input("pictures", str(folder)), lambda text: None
    )
    assert [line[68:] for line in tree.manifest.splitlines()] == list(files_of(folder))
    assert model_and_data.tree_sha256(tree) == model_and_data.content_key(folder)


@pytest.mark.parametrize(
    ("link", "target", "said"),
    [
        ("x", "../ssh", "leads out of its folder, to .*/ssh"),
        ("a/cat.png", "../../ssh/id_ed25519", "leads out of its folder, to .*/id_ed25519"),
        ("x", "/", "leads out"),
        ("x", "a", "is a link to a folder"),
        ("x", ".", "is a link to a folder"),
        ("x", "nowhere", "leads nowhere"),
        ("x", "x", "leads nowhere"),
    ],
)
def test_a_link_is_refused_by_its_name_and_nothing_is_sent(
    folder: Path, secrets: Path, tmp_path: Path, link: str, target: str, said: str
) -> None:
    (folder / link).symlink_to(target)
    with pytest.raises(UserError, match=f"{folder / link}: .*{said}"):
        model_and_data.read_input("pictures", str(folder))
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    with pytest.raises(UserError, match=str(folder / link)):
        host.send(folder, str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_the_hubs_own_cache_is_links_to_its_blobs(secrets: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0f").write_text("{}")
    snapshot = repository / "snapshots" / "main"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model_index.json").symlink_to("../../blobs/0f")
    (snapshot / "unet" / "config.json").symlink_to("../../../blobs/0f")
    assert list(files_of(snapshot)) == ["model_index.json", "unet/config.json"]
    (repository / "blobs" / "0f").unlink()
    (repository / "blobs").rmdir()
    (secrets / "0f").write_text("secret")
    (repository / "blobs").symlink_to(secrets)
    with pytest.raises(UserError, match="leads out of its folder"):
        files_of(snapshot)


def test_who_may_not_read_it_here_may_not_there(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").chmod(0o600)
    (folder / "a.png").chmod(0o664)
    (folder / "a" / "1.png").chmod(0o700)
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    there = tmp_path / "there"
    host.send(folder, str(there))
    modes = {name: path.stat().st_mode & 0o777 for name, path in files_of(there).items()}
    assert modes == {"a.png": 0o644, "a/1.png": 0o700, "b.png": 0o600}


def test_a_name_that_is_no_text_is_refused(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/m\xfcller.png")).write_bytes(b"")
    with pytest.raises(UserError, match="bytes that are not UTF-8: rename it"):
        model_and_data.read_input("pictures", str(folder))
