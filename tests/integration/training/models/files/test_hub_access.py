"""A hub that cannot be reached is told at once; what is here or in the cache needs none."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.models.files.hub_access import refuse_unreachable
from training.models.loading import load_models


def complaint(model: Path, **changes: Any) -> str:
    values = {
        "pretrained_model_name_or_path": str(model),
        "train_data_dir": "pictures",
        "placeholder_token": "<new>",
        "initializer_token": "toy",
    }
    with pytest.raises(UserError) as raised:
        load_models(TextualInversionConfig.model_validate({**values, **changes}))
    return str(raised.value)


def test_a_hub_that_is_not_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://me:secret@127.0.0.1:{port}")
    found = complaint(Path("nobody/nothing"))
    assert found.startswith(
        f"nobody/nothing: is no folder here, and the hub (http://***@127.0.0.1:{port}) cannot be"
        " reached: "
    )
    assert "refused" in found
    assert "\n" not in found
    assert "tokenizer" not in found
    assert complaint(tiny_model, tokenizer_name="nobody/words").startswith("nobody/words: is no f")


def test_what_is_in_the_cache_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--nobody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_model, repository / "snapshots" / ("0" * 40))
    refuse_unreachable("nobody/tiny", ["nothing", "unet/config.json"])
    refuse_unreachable("nobody/tiny", ["tokenizer/./vocab.json"])
    with pytest.raises(UserError, match="cannot be reached"):
        refuse_unreachable("nobody/tiny", ["nothing"])


def test_a_hub_that_says_nothing_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.models.files.hub_access.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        assert f"the hub ({endpoint}) cannot be reached: " in complaint(Path("nobody/nothing"))
