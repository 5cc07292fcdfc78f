"""The model and the pictures: what a person may name, and how the head gets them."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup import model_and_data
from bootstrap.setup.model_and_data import (
    Input,
    content_key,
    download_line,
    fetch_to_head,
    read_input,
    tree_sha256,
)
from bootstrap.ssh.host import Host, local_host


@pytest.fixture
def head(tmp_path: Path) -> Host:
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "my cat"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number} of 3.jpg").write_bytes(bytes([number] * 10))
    return folder


def quiet(text: str) -> None:
    del text


def test_a_folder_of_the_persons(head: Host, pictures: Path) -> None:
    wanted = read_input("pictures", str(pictures))
    tree = fetch_to_head(head, wanted, quiet)
    assert tree.path == f"{head.layout.data}/my-cat"
    assert sorted(path.name for path in Path(tree.path).iterdir()) == [
        "0 of 3.jpg", "1 of 3.jpg", "2 of 3.jpg",
    ]  # fmt: skip
    record = json.loads((Path(head.layout.cluster) / "data.json").read_text())
    assert record["sha256"] == tree_sha256(tree) == content_key(pictures)
    assert (record["path"], record["files"]) == (tree.path, 3)


def test_a_changed_picture_is_sent_and_an_unchanged_folder_is_not(
    head: Host, pictures: Path
) -> None:
    said: list[str] = []
    first = fetch_to_head(head, read_input("pictures", str(pictures)), said.append)
    assert fetch_to_head(head, read_input("pictures", str(pictures)), said.append) == first
    assert len(said) == 1
    (pictures / "1 of 3.jpg").write_bytes(b"another")
    (pictures / "2 of 3.jpg").unlink()
    second = fetch_to_head(head, read_input("pictures", str(pictures)), said.append)
    assert second.files == 2
    assert (Path(second.path) / "1 of 3.jpg").read_bytes() == b"another"
    assert tree_sha256(second) == content_key(pictures)


def test_pictures_that_a_kill_left_half_replaced_are_there_again(
    head: Host, pictures: Path
) -> None:
    first = Path(fetch_to_head(head, read_input("pictures", str(pictures)), quiet).path)
    first.rename(first.with_name(f"{first.name}.old"))
    said: list[str] = []
    fetch_to_head(head, read_input("pictures", str(pictures)), said.append)
    assert said == []
    assert sorted(path.name for path in first.parent.iterdir()) == ["my-cat", "my-cat.sha256"]


def test_the_hub_is_asked_by_the_head_and_no_token_is_in_the_line(
    head: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read_input("model", "a/model", "main")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:geheim@mirror")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    line = download_line(head, wanted, "/r/models/model.filling")
    assert model_and_data.endpoint() == "https://me:geheim@mirror"  # by standard input
    assert "mirror" not in line
    assert f"HF_TOKEN_PATH={head.layout.hub_token}" in line
    assert "hf_secret" not in line
    assert line.endswith(
        "bootstrap.node.downloads.hub_download model a/model /r/models/model.filling main"
    )


def test_the_token_is_read_by_its_owner_alone(head: Host) -> None:
    said: list[str] = []
    head = dataclasses.replace(head, log=said.append)
    model_and_data.store_token(head, "hf_secret\n")
    path = Path(head.layout.hub_token)
    assert path.read_text() == "hf_secret"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert "hf_secret" not in "\n".join(said)


def test_the_defaults() -> None:
    assert Input("model", model_and_data.DEFAULT_MODEL).name == "stable-diffusion-v1-5"
    assert Input("pictures", model_and_data.DEFAULT_PICTURES).name == "dicoo"


def test_a_picture_without_a_suffix_is_one_for_all_that_is_known_here(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001").write_bytes(b"a picture")
    assert read_input("pictures", str(tmp_path)).local == tmp_path


def test_a_model_in_a_single_file_is_told_how_to_become_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v1-5.safetensors").write_text("weights")
    with pytest.raises(UserError, match=r"P\.from_single_file\('.*v1-5\.safetensors'\)"):
        read_input("model", str(tmp_path / "v1-5.safetensors"))


def test_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder here nor a repository"):
        read_input("pictures", str(tmp_path / "nowhere" / "at" / "all"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        read_input("pictures", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        read_input("model", str(tmp_path / "empty"))
