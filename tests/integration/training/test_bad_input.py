"""Bad input: exit code 2, one message that names it, no traceback, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training_fixtures import Flags
from training.models.embeds import save_embeds
from training.models.loading import PARTS
from training.storage import run_directory
from training.textual_inversion import main

Refused = Callable[..., str]
LOCK = "run/.lock"


def contents(folder: Path) -> dict[str, str]:
    """Every file with a digest of its bytes, and every link and empty folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() else ""
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that must fail and leave `tmp_path` alone; returns its message."""

    def check(argv: list[str]) -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        assert main(argv) == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        lines = printed.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, printed
        after = contents(tmp_path)
        for lock in ("run", LOCK):  # an empty folder may be made, and is held while it is looked at
            before.pop(lock, None)
            after.pop(lock, None)
        assert after == before
        return printed[printed.index("error: ") :]

    return check


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """A copy of the five pictures to spoil."""
    return shutil.copytree(pictures, tmp_path / "pictures")


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the model to spoil."""
    return shutil.copytree(tiny_model, tmp_path / "model")


# --- pictures ---


def test_an_empty_folder(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    found = refused(flags(train_data_dir=tmp_path / "none"))
    assert f"train_data_dir {tmp_path / 'none'}: has no pictures in it" in found


def test_an_absent_folder(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    found = refused(flags(train_data_dir=tmp_path / "absent"))
    assert f"train_data_dir {tmp_path / 'absent'}: is not a folder." in found


def test_text_named_jpg_and_a_cut_jpeg_and_a_dot_among_good_ones(
    refused: Refused, flags: Flags, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "notes.jpg").write_text("a toy")
    Image.open(folder / "0.png").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-500])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    found = refused(flags(train_data_dir=folder))
    assert "3 of 8 files cannot be used" in found
    assert "notes.jpg: is not a picture" in found
    assert "cut.jpg: is broken or cut short" in found
    assert "dot.png: 1 x 1 pixels is too small" in found
    skipping = flags(train_data_dir=folder, skip_broken_images="true", max_train_steps=1)
    assert main(skipping) == 0
    printed = capsys.readouterr().err
    for name in ("notes.jpg", "cut.jpg", "dot.png"):
        assert f"skipped: {name}: " in printed
    assert (tmp_path / "run" / "learned_embeds.safetensors").exists()


def test_nothing_but_broken_pictures(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "notes.jpg").write_text("a toy")
    argv = flags(train_data_dir=tmp_path / "broken")
    assert "1 of 1 files cannot be used" in refused(argv)
    assert "has no pictures in it" in refused([*argv, "--skip_broken_images"])


def test_unusual_pictures_are_fine(flags: Flags, tmp_path: Path) -> None:
    folder = tmp_path / "unusual"
    folder.mkdir()
    colours = Image.effect_noise((40, 30), 80).convert("RGB")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    Image.fromarray(grey).save(folder / "grey16.png")
    colours.convert("P").save(folder / "palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "turned.jpg", exif=exif)
    colours.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert main(flags(train_data_dir=folder, max_train_steps=1)) == 0


# --- words ---


@pytest.mark.parametrize("word", ["toy", "a", "<|endoftext|>"])
def test_a_placeholder_that_is_a_token(word: str, refused: Refused, flags: Flags) -> None:
    found = refused(flags(placeholder_token=word))
    assert f"placeholder_token '{word}' is already a token of this model" in found


def test_an_initializer_of_several_tokens(refused: Refused, flags: Flags) -> None:
    found = refused(flags(initializer_token="two words"))
    assert "initializer_token 'two words' is " in found
    assert "it must be one" in found
    assert "'zebra' is 5 tokens (z, e, b, r, a</w>)" in refused(flags(initializer_token="zebra"))


def test_an_initializer_of_more_tokens_than_vectors(refused: Refused, flags: Flags) -> None:
    found = refused(flags(initializer_token="toy dog", num_vectors=3))
    assert "'toy dog' is 2 tokens (toy</w>, dog</w>); it must be one, or 3 (num_vectors)" in found


def test_more_vectors_than_fit(refused: Refused, flags: Flags) -> None:
    found = refused(flags(num_vectors=40))
    assert "num_vectors 40: the longest sentence that the word is learned in has" in found
    assert "vectors fit." in found


def test_validation_prompts_whose_word_is_cut_off_or_torn(refused: Refused, flags: Flags) -> None:
    assert "<new> is beyond them" in refused(flags(validation_prompt="red " * 30 + "<new>"))
    found = refused(flags(validation_prompt="a <new>_1", num_vectors=2))
    assert "Write <new> alone" in found


def test_an_initializer_of_no_token(refused: Refused, flags: Flags) -> None:
    assert "initializer_token '' is 0 tokens" in refused(flags(initializer_token=""))


# --- the model ---


@pytest.mark.parametrize("part", PARTS)
def test_a_model_with_a_part_missing(
    part: str, refused: Refused, flags: Flags, model: Path
) -> None:
    shutil.rmtree(model / part)
    found = refused(flags(pretrained_model_name_or_path=model))
    assert f"{model}: not a whole pipeline, {part} missing." in found


@pytest.mark.parametrize(
    "file",
    [
        "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "vae/config.json",
        "unet/config.json", "scheduler/scheduler_config.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "text"])
def test_a_model_with_a_damaged_file(
    file: str, damage: str, refused: Refused, flags: Flags, model: Path
) -> None:
    path = model / file
    whole = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2]}.get(damage, b"text"))
    found = refused(flags(pretrained_model_name_or_path=model))
    assert f"error: {model}: its {file.split('/')[0]} cannot be loaded: " in found


@pytest.mark.parametrize("part", ["text_encoder", "vae", "unet"])
def test_a_model_with_weights_missing_from_a_whole_file(
    part: str, refused: Refused, flags: Flags, model: Path
) -> None:
    (path,) = (model / part).glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[len(tensors) // 2]
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    found = refused(flags(pretrained_model_name_or_path=model))
    assert f"its {part} cannot be loaded: " in found


def test_a_damaged_tokenizer(refused: Refused, flags: Flags, model: Path) -> None:
    for path in (model / "tokenizer").iterdir():
        path.write_text("text")
    found = refused(flags(pretrained_model_name_or_path=model))
    assert "its tokenizer cannot be loaded: " in found


def test_a_tokenizer_without_its_vocabulary(refused: Refused, flags: Flags, model: Path) -> None:
    for path in (model / "tokenizer").iterdir():
        path.unlink()
    found = refused(flags(pretrained_model_name_or_path=model))
    assert "its tokenizer cannot be loaded: " in found


def test_a_prediction_type_of_another_kind(refused: Refused, flags: Flags, model: Path) -> None:
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "flow"}))
    assert "prediction type 'flow'" in refused(flags(pretrained_model_name_or_path=model))


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(
    refused: Refused, flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = refused(flags(pretrained_model_name_or_path="nobody/nothing"))
    assert "error: nobody/nothing: its tokenizer cannot be loaded: " in found


# --- the run folder ---


def test_an_output_folder_under_a_file(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep" / "run"):
        found = refused(flags(output_dir=folder))
        assert f"error: {folder}: cannot be written (" in found


def test_an_output_folder_that_the_system_refuses(
    refused: Refused, flags: Flags, tmp_path: Path
) -> None:
    """/proc takes no folders, whoever asks."""
    assert "error: /proc/run: cannot be written (" in refused(flags(output_dir="/proc/run"))


def test_a_latents_folder_under_a_file(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(flags(latents_cache_dir=tmp_path / "file" / "latents")) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert f"error: {tmp_path / 'file' / 'latents'}" in printed
    assert "Traceback" not in printed


def test_a_folder_with_a_run(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    assert main(flags(max_train_steps=2)) == 0
    events = tmp_path / "run" / "events.jsonl"
    before = events.read_bytes()
    assert main(flags()) == 2
    assert events.read_bytes() == before  # its report says nothing of what it was not asked for


def test_a_run_of_another_configuration_names_every_key(
    flags: Flags, tmp_path: Path, tiny_model: Path, pictures: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(flags(max_train_steps=2)) == 0
    fewer = shutil.copytree(pictures, tmp_path / "fewer")
    (fewer / "0.png").unlink()
    before = contents(tmp_path / "run")
    capsys.readouterr()
    other = flags(
        resume_from_checkpoint="latest", train_data_dir=fewer, initializer_token="dog", seed=4,
        learning_rate=5e-3, resolution=64, train_batch_size=2, lr_scheduler="cosine",
        center_crop="true", max_train_steps=9,
    )  # fmt: skip
    assert main(other) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    for line in (
        "seed: 3 then, 4 now", "learning_rate: 0.01 then, 0.005 now", "resolution: 32 then, 64 now",
        "train_batch_size: 1 then, 2 now", "lr_scheduler: 'constant' then, 'cosine' now",
        "center_crop: False then, True now", "train_data_dir: ", "initializer_token: ",
    ):  # fmt: skip
        assert f"  - {line}" in printed
    assert printed.count("\n  - ") == 8
    after = contents(tmp_path / "run")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {".lock"}


def test_a_checkpoint_that_is_not_there(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(max_train_steps=2)) == 0
    assert main(flags(resume_from_checkpoint="checkpoint-9")) == 2
    assert "resume_from_checkpoint checkpoint-9: not in " in capsys.readouterr().err


@pytest.mark.parametrize("asked", [None, "latest", "checkpoint-500"])
def test_checkpoints_of_diffusers_own_script(
    asked: str | None, refused: Refused, flags: Flags, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name in ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        (run / "checkpoint-500").mkdir(parents=True, exist_ok=True)
        (run / "checkpoint-500" / name).write_text("")
    rows = run / "learned_embeds-steps-500.safetensors"
    save_embeds(rows, "<new>", torch.ones(1, 32))
    for limit in (None, 1):
        found = refused(flags(resume_from_checkpoint=asked, checkpoints_total_limit=limit))
        assert f"output_dir {run}: checkpoint-500 is another tool's checkpoint" in found
        assert f"--initial_embeds {rows}" in found
    start = flags(initial_embeds=rows, initializer_token=None, output_dir=tmp_path / "other")
    assert main([*start, "--max_train_steps=1"]) == 0


def hold(folder: Path, held: Event, release: Event) -> None:
    with run_directory.locked(folder):
        held.set()
        release.wait(60)


def test_a_run_folder_that_another_process_is_writing(
    refused: Refused, flags: Flags, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", held, release))
    process.start()
    try:
        assert held.wait(60)
        found = refused(flags())
        assert f"output_dir {tmp_path / 'run'}: another live process is writing it" in found
        assert f"pid {process.pid}" in found
        refused([*flags(), "--overwrite_output_dir"])
    finally:
        release.set()
        process.join()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    replace = os.replace

    def full(source: Path, destination: Path) -> None:
        if Path(destination).name == "checkpoint-4":
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", full)
    assert main(flags()) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert f"{tmp_path / 'run' / 'checkpoint-4'}: the disk is full" in printed
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*.partial"))
    assert main(flags(resume_from_checkpoint="latest")) == 0
    assert "resuming from checkpoint-2" in capsys.readouterr().err


# --- configuration ---


def test_a_typo_in_a_key(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("learning_rat = 1\n")
    found = refused([*flags(), "--config", str(tmp_path / "run.toml"), "--sed=4"])
    assert "learning_rat: no such key; did you mean learning_rate?" in found
    assert "--sed: no such flag; did you mean --seed?" in found


@pytest.mark.parametrize("changes", [{"learning_rate": 1e38}, {"adam_epsilon": 1e300}])
def test_a_learning_rate_beyond_float32(
    changes: dict[str, float], refused: Refused, flags: Flags
) -> None:
    assert "is beyond what AdamW can compute with in float32" in refused(flags(**changes))
    scaled = flags(learning_rate=1e37, gradient_accumulation_steps=10, scale_lr="true")
    assert "learning_rate 1e+38" in refused(scaled)


def test_the_intel_stack_without_ipex(refused: Refused, flags: Flags) -> None:
    assert "--stack intel: intel_extension_for_pytorch" in refused(flags(stack="intel"))


# --- numbers ---


def test_a_learning_rate_that_diverges_leaves_the_last_whole_checkpoint(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(lr_scheduler="piecewise_constant", lr_step_rules="1:3,1e32")
    assert main(argv) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "the loss is not finite at step 5" in printed
    assert "--max_grad_norm 1" in printed
    run = tmp_path / "run"
    assert not (run / "learned_embeds.safetensors").exists()
    assert torch.isfinite(load_file(run / "checkpoint-2" / "state.safetensors")["rows"]).all()


def test_a_schedule_that_leaves_float32_is_named(
    flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(lr_scheduler="piecewise_constant", lr_step_rules="1:3,1e40")) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "learning_rate 1e+38: is beyond what AdamW can compute with" in printed


def test_rows_that_diverge_in_the_last_step_are_not_the_result(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(learning_rate=1e30, max_train_steps=1)) == 2
    assert "the loss is not finite" in capsys.readouterr().err
    assert not (tmp_path / "run" / "learned_embeds.safetensors").exists()
    assert not (tmp_path / "run" / "checkpoint-1").exists()


def test_a_poisoned_row(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_embeds(tmp_path / "rows.safetensors", "<new>", torch.full((1, 32), torch.nan))
    argv = flags(initial_embeds=tmp_path / "rows.safetensors", initializer_token=None)
    assert main(argv) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "not finite" in printed
    assert not list((tmp_path / "run").glob("learned*"))
    assert not list((tmp_path / "run").glob("checkpoint*"))


@pytest.mark.parametrize(("count", "width"), [(1, 48), (2, 32)])
def test_initial_embeds_of_another_shape(
    count: int, width: int, refused: Refused, flags: Flags, tmp_path: Path
) -> None:
    path = tmp_path / "rows.safetensors"
    save_embeds(path, "<new>", torch.ones(count, width))
    found = refused(flags(initial_embeds=path, initializer_token=None))
    assert f"initial_embeds {path}: holds ({count}, {width}) rows x width" in found
    assert "needs (1, 32)" in found


def test_initial_embeds_that_are_not_there(refused: Refused, flags: Flags, tmp_path: Path) -> None:
    path = tmp_path / "absent.safetensors"
    found = refused(flags(initial_embeds=path, initializer_token=None))
    assert f"initial_embeds {path}: cannot be read" in found


def test_a_seed_beyond_what_generators_take(refused: Refused, flags: Flags) -> None:
    assert "seed = " in refused(flags(seed=2**64))


# --- the hub ---


def test_a_hub_that_cannot_be_reached_is_told_before_training(
    refused: Refused, flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    found = refused(flags(max_train_steps=1, push_to_hub="true", hub_model_id="me/new"))
    assert "push_to_hub: the hub does not take me/new (" in found
    assert "leave out --push_to_hub" in found
