"""What goes to the hub, and that it is asked before training: the real client, a small hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard

from tests.hub import Hub, serving
from tests.training_fixtures import Flags
from training.textual_inversion import main

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub where the token of this process writes as `me`."""
    with serving({}) as serves:
        serves.writers["hf_writer"] = "me"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", serves.endpoint)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            serves.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield serves


@pytest.fixture
def pushing(flags: Flags) -> Flags:
    def build(**changes: object) -> list[str]:
        return flags(**{"max_train_steps": 2, "push_to_hub": "true", **changes})

    return build


def test_what_is_uploaded_and_nothing_else(
    hub: Hub, pushing: Flags, tiny_model: Path, pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    for name in ("job.json", "nodefile", "supervisor.log", "state.json", "my-key.pem"):
        (run / name).write_text("10.77.0.2 azureuser")
    argv = pushing(
        validation_prompt="a <new>", num_validation_images=2, num_inference_steps=1,
        embeds_format="a1111", report_to="tensorboard", latents_cache_dir=None,
    )  # fmt: skip
    assert main(argv) == 0
    assert list(hub.uploads) == ["me/run"]
    uploaded = hub.uploads["me/run"]
    top = {name for name in uploaded if "/" not in name}
    assert top == {
        "README.md", "learned_embeds.safetensors", "learned_embeds-steps-2.safetensors",
        "new.safetensors", "loss.png", "model_index.json",
    }  # fmt: skip
    assert {name.split("/")[0] for name in set(uploaded) - top} == {"samples", *PARTS}
    assert len([name for name in uploaded if name.startswith("samples/")]) == 4
    for name, content in uploaded.items():
        for secret in (tmp_path, tiny_model, pictures, "10.77.0.2", "azureuser", "hf_writer"):
            assert str(secret).encode() not in content, name
    assert "uploaded to me/run: README.md, learned_embeds" in capsys.readouterr().err
    for name, content in uploaded.items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    StableDiffusionPipeline.from_pretrained(tmp_path / "back")


def test_the_model_card_shows_what_was_learned(hub: Hub, pushing: Flags, tmp_path: Path) -> None:
    argv = pushing(
        hub_model_id="me/word", validation_prompt="a <new> on snow", num_validation_images=1,
        num_inference_steps=1,
    )  # fmt: skip
    assert main(argv) == 0
    card = ModelCard(hub.uploads["me/word"]["README.md"].decode())
    assert card.data.tags == [
        "stable-diffusion", "stable-diffusion-diffusers", "text-to-image", "diffusers",
        "textual_inversion", "diffusers-training",
    ]  # fmt: skip
    assert card.data.license == "creativeml-openrail-m"
    assert card.data.library_name == "diffusers"
    assert card.data.base_model is None  # the model was a folder here
    assert "![a <new> on snow](./samples/step-000002/prompt-0-seed-3.png)" in card.text
    assert 'load_textual_inversion("me/word")' in card.text


def test_the_model_card_names_a_base_model_of_the_hub(
    hub: Hub, pushing: Flags, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["someone/tiny"] = tiny_model
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    argv = pushing(pretrained_model_name_or_path="someone/tiny", max_train_steps=1)
    assert main(argv) == 0
    card = ModelCard(hub.uploads["me/run"]["README.md"].decode())
    assert card.data.base_model == "someone/tiny"
    assert 'StableDiffusionPipeline.from_pretrained("someone/tiny")' in card.text


@pytest.mark.parametrize("what", ["no token", "another's", "its own, read only", "unreachable"])
def test_a_hub_that_does_not_take_it_is_told_before_training(
    what: str, hub: Hub, pushing: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name = "me/word"
    if what == "no token":
        monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    elif what == "another's":
        name = "somebody/word"
        hub.repositories[name] = tmp_path
    elif what == "its own, read only":
        hub.writers["hf_reader"] = "reader"
        hub.uploads[name] = {}
        monkeypatch.setenv("HF_TOKEN", "hf_reader")
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(pushing(hub_model_id=name)) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert f"push_to_hub: the hub does not take {name} (" in printed
    assert "Traceback" not in printed
    assert "training 1/2" not in printed
    assert not (tmp_path / "run" / "config.toml").exists()
    assert not any(hub.uploads.values())


def test_a_hub_that_refuses_at_the_end_leaves_the_results(
    hub: Hub, pushing: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses_uploads = True
    assert main(pushing(hub_model_id="me/new")) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "push_to_hub: me/new could not be uploaded" in printed
    assert (tmp_path / "run" / "learned_embeds.safetensors").exists()
    hub.refuses_uploads = False
    assert main([*pushing(hub_model_id="me/new"), "--resume_from_checkpoint=latest"]) == 0
    assert "learned_embeds.safetensors" in hub.uploads["me/new"]


def test_a_folder_that_is_not_pushed_asks_nobody(hub: Hub, flags: Flags, tmp_path: Path) -> None:
    assert main(flags(max_train_steps=1)) == 0
    assert hub.requests == []
    shutil.rmtree(tmp_path / "run")
