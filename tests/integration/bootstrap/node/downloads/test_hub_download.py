"""What the head fetches from the hub: the real client, a small hub on the loopback interface."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.hub
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup.model_and_data import fetch_to_head, read_input
from bootstrap.ssh.host import local_host
from tests.hub import COMMIT, serving

ROOT = Path(__file__).resolve().parents[5]


def download(
    tmp_path: Path, endpoint: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "bootstrap.node.downloads.hub_download", *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in (
        "model_index.json", "README.md", "checkpoint.ckpt", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors", "tokenizer/vocab.json",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_model(pipeline: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    with serving({"a/model": pipeline}) as hub:
        finished = download(tmp_path, hub.endpoint, "model", "a/model", str(target))
    assert finished.returncode == 0, finished.stderr
    assert files(target) == [
        "model_index.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    asked = [path for method, path in hub.requests if method == "GET"]
    assert not [path for path in asked if path.endswith((".bin", ".ckpt", "fp16.safetensors"))]
    assert finished.stdout.split()[-1] == "0" * 40


def test_pictures_lie_side_by_side(tmp_path: Path) -> None:
    repository = tmp_path / "dicoo"
    (repository / "concept_images").mkdir(parents=True)
    for number in range(5):
        (repository / "concept_images" / f"{number}.jpeg").write_bytes(bytes([number]))
    (repository / "learned_embeds.bin").write_text("a pickle")
    target = tmp_path / "pictures"
    with serving({"sd-concepts-library/dicoo": repository}) as hub:
        finished = download(
            tmp_path, hub.endpoint, "pictures", "sd-concepts-library/dicoo", str(target)
        )
    assert finished.returncode == 0, finished.stderr
    assert files(target) == [f"{number}.jpeg" for number in range(5)]


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(
    pipeline: Path, tmp_path: Path
) -> None:
    (pipeline / "unet/diffusion_pytorch_model.safetensors").unlink()
    with serving({"a/model": pipeline}) as hub:
        finished = download(tmp_path, hub.endpoint, "model", "a/model", str(tmp_path / "model"))
    assert finished.returncode == 1
    assert "unet has its weights as pickles alone" in finished.stderr
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_a_password_of_a_mirror_is_shown_and_written_nowhere(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "env").symlink_to(sys.prefix)
    head = local_host(Node("n0", "127.0.0.1"), str(root))
    logged: list[str] = []
    head = dataclasses.replace(head, log=logged.append)
    monkeypatch.delenv("HF_HOME", raising=False)
    with serving({"a/model": pipeline}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint.replace("//", "//me:geheim@"))
        tree = fetch_to_head(head, read_input("model", "a/model"), logged.append)
    assert "model_index.json" in tree.manifest
    with pytest.raises(UserError) as caught:
        fetch_to_head(head, read_input("model", "another/model"), logged.append)
    assert "could not be fetched from http://***@127.0.0.1:" in str(caught.value)
    told = [*logged, str(caught.value)]
    files = [
        path for path in root.rglob("*") if path.is_file() and (root / "env") not in path.parents
    ]
    assert (root / "cluster" / "model.json") in files
    told += [path.read_text(errors="replace") for path in files]
    assert not [text for text in told if "geheim" in text]


def test_a_repository_that_does_not_exist(tmp_path: Path) -> None:
    with serving({}) as hub:
        finished = download(tmp_path, hub.endpoint, "model", "a/none", str(tmp_path / "model"))
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: a/none: ")
    assert "token" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    with serving({}) as hub:
        endpoint = hub.endpoint
    finished = download(tmp_path, endpoint, "model", "a/model", str(tmp_path / "model"))
    assert finished.returncode == 1
    assert f"could not be fetched from {endpoint}" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [("pictures", "../kept/a.png"), ("model", "../model_index.json")],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    names = ["model_index.json", name]
    about = {"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": one} for one in names]}
    monkeypatch.setattr(tests.hub._Handler, "_about", lambda *_: about)
    (tmp_path / "kept").mkdir()
    with serving({"a/b": pipeline}) as hub:
        finished = download(tmp_path, hub.endpoint, kind, "a/b", str(tmp_path / "target"))
        assert not any("/resolve/" in path for _, path in hub.requests)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: a/b: lists a file")
    assert (tmp_path / "kept").is_dir()
