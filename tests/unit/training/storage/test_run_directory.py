"""A run's folder: its lock, its record, and what may not change when it goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from training import atomic_files
from training.config.textual_inversion import (
    IDENTIFIED_BY_CONTENT,
    MAY_DIFFER_ON_RESUME,
    TextualInversionConfig,
)
from training.errors import UserError
from training.storage import run_directory
from training.storage.run_directory import RunRecord

RECORD = RunRecord(
    seed=7, global_batch=2, learning_rate=1e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip
CONTENT = {"model": "m", "pictures": "p", "rows": "r"}
OTHER: dict[str, Any] = {
    "placeholder_token": "<other>",
    "num_vectors": 2,
    "keep_embedding_norm": True,
    "learnable_property": "style",
    "repeats": 7,
    "resolution": 64,
    "center_crop": True,
    "seed": 8,
    "train_batch_size": 3,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1.0,
    "scale_lr": True,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 4,
    "lr_num_cycles": 2,
    "lr_power": 2.0,
    "lr_step_rules": "1:2,0.1",
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "adam_weight_decay": 0.5,
    "adam_epsilon": 0.5,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": True,
    "mixed_precision": "bf16",
    "stack": "upstream",
    "frozen": "native",
    "attention": "torch",
    "convolution": "torch",
}
"""Another value of every key that must stay the same."""


def config(**changes: Any) -> TextualInversionConfig:
    return TextualInversionConfig.model_validate(
        {
            "pretrained_model_name_or_path": "model",
            "train_data_dir": "pictures",
            "placeholder_token": "<new>",
            "initializer_token": "toy",
            "seed": 7,
            **changes,
        }
    )


def hold(folder: Path, held: Event, release: Event) -> None:
    with run_directory.locked(folder):
        held.set()
        release.wait(60)


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(60)
    with (
        pytest.raises(
            UserError, match=rf"another live process is writing it \(.* pid {process.pid}\)"
        ),
        run_directory.locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with run_directory.locked(tmp_path):
        pass


def test_the_folder_is_made(tmp_path: Path) -> None:
    with run_directory.locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"), run_directory.locked(folder):
            pass


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-2.77.partial").mkdir()
    (tmp_path / ".learned_embeds.safetensors.77.partial").write_text("half")
    (tmp_path / ".hidden").write_text("kept")
    with run_directory.locked(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".lock"]


def write_checkpoint_and_die(folder: Path) -> None:
    """As a process does that is killed between the two renames."""

    def die(source: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    atomic_files.os.replace = die  # type: ignore[attr-defined]
    atomic_files.write_directory(folder, lambda new: (new / "state").write_text("new"))


def test_what_a_killed_process_was_replacing_has_its_name_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "state").write_text("old")
    process = multiprocessing.get_context("fork").Process(
        target=write_checkpoint_and_die, args=(tmp_path / "checkpoint-2",)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "checkpoint-2").exists()
    with run_directory.locked(tmp_path):
        pass
    assert (tmp_path / "checkpoint-2" / "state").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint-2"]


def test_what_had_been_replaced_goes(tmp_path: Path) -> None:
    for name in ("checkpoint-2", ".checkpoint-2.77.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_text(name)
    (tmp_path / ".mine.old").write_text("kept")
    with run_directory.locked(tmp_path):
        pass
    assert (tmp_path / "checkpoint-2" / "state").read_text() == "checkpoint-2"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".lock", ".mine.old", "checkpoint-2"]


def test_a_record_is_read_back(tmp_path: Path) -> None:
    written = config(validation_prompt=["a <new>", "é\n"], output_dir=tmp_path, max_grad_norm=0.5)
    run_directory.write_config(tmp_path, written, RECORD)
    assert run_directory.read_config(tmp_path) == (written, RECORD)


def test_steps_counted_by_epochs_are_read_back(tmp_path: Path) -> None:
    run_directory.write_config(tmp_path, config(max_train_steps=None), RECORD)
    assert run_directory.read_config(tmp_path)[0].max_train_steps is None


def test_somebody_elses_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine = 1")
    with pytest.raises(UserError, match="is not the record of a run"):
        run_directory.clear_for_new_run(tmp_path)
    assert (tmp_path / "config.toml").read_text() == "mine = 1"


@pytest.mark.parametrize("text", ["", "seed = 4", "seed = ", "[run]\nseed = 4", "\x00"])
def test_a_file_of_something_else_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UserError, match=r"config\.toml: is not the record of a run"):
        run_directory.read_config(tmp_path)


def test_a_folder_with_a_run_is_refused_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    run_directory.refuse_a_held_folder(tmp_path, False)
    run_directory.write_config(tmp_path, config(), RECORD)
    run_directory.refuse_a_held_folder(tmp_path, True)
    with pytest.raises(UserError, match="holds a run already"):
        run_directory.refuse_a_held_folder(tmp_path, False)


def test_overwriting_removes_what_a_run_leaves_and_nothing_else(tmp_path: Path) -> None:
    run_directory.write_config(tmp_path, config(), RECORD)
    own = [
        "checkpoint-2/state.json", "samples/step-000000/a.png", "logs/events", "unet/config.json",
        "events.jsonl", "report.html", "loss.png", "learned_embeds.safetensors",
        "learned_embeds-steps-2.bin", "model_index.json", "new.safetensors",
    ]  # fmt: skip
    others = [
        "pictures/0.png",
        "notes.txt",
        "latents/a.safetensors",
        ".git/HEAD",
        "old.safetensors",
    ]
    for name in own + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoint-4").symlink_to(tmp_path / "pictures")
    run_directory.clear_for_new_run(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(others)


@pytest.mark.parametrize("logs", ["..", ".", "../other", "/", "*"])
def test_logs_elsewhere_are_not_removed(logs: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("run", "other", "run/mine"):
        (tmp_path / name).mkdir()
    run_directory.write_config(folder, config(logging_dir=logs), RECORD)
    run_directory.clear_for_new_run(folder)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "other", "run", "run/mine",
    ]  # fmt: skip


def test_a_folder_without_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    run_directory.clear_for_new_run(tmp_path)
    assert (tmp_path / "checkpoint-2").exists()


@pytest.mark.parametrize(("key", "ours"), [("attention", "fused"), ("convolution", "winograd")])
def test_a_record_of_before_a_kernel_goes_on_with_pytorchs(key: str, ours: str) -> None:
    written = RECORD.model_dump()
    assert key not in written
    assert getattr(RunRecord.model_validate(written), key) == "torch"
    with_ours = RECORD.model_copy(update={key: ours})
    assert getattr(RunRecord.model_validate(with_ours.model_dump()), key) == ours


def test_every_key_is_free_fixed_or_known_by_content() -> None:
    assert set(OTHER) | MAY_DIFFER_ON_RESUME | set(IDENTIFIED_BY_CONTENT) == set(
        TextualInversionConfig.model_fields
    )


@pytest.mark.parametrize("key", OTHER)
def test_a_fixed_key_that_differs_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_directory.refuse_differences(
            tmp_path, (config(), RECORD), config(**{key: OTHER[key]}), CONTENT
        )
    assert str(raised.value).count("\n  - ") == 1
    assert f"  - {key}: " in str(raised.value)


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_directory.refuse_differences(
            tmp_path,
            (config(), RECORD),
            config(**OTHER),
            {"model": "other", "pictures": "other", "rows": "other"},
        )
    found = str(raised.value)
    assert all(f"  - {key}: " in found for key in OTHER)
    assert "  - pretrained_model_name_or_path: not the same model as when" in found
    assert "  - train_data_dir: not the same pictures as when" in found
    assert "  - initializer_token: not the same rows as when" in found


def test_places_may_change_while_their_bytes_do_not(tmp_path: Path) -> None:
    moved = config(
        pretrained_model_name_or_path="elsewhere", train_data_dir="elsewhere",
        initializer_token=None, initial_embeds="rows.bin", max_train_steps=9000, seed=None,
    )  # fmt: skip
    run_directory.refuse_differences(tmp_path, (config(), RECORD), moved, CONTENT)


def test_a_seed_that_was_drawn_may_be_given(tmp_path: Path) -> None:
    drawn = config(seed=None)
    run_directory.refuse_differences(tmp_path, (drawn, RECORD), config(seed=7), CONTENT)
    with pytest.raises(UserError, match="seed: 7 then, 8 now"):
        run_directory.refuse_differences(tmp_path, (drawn, RECORD), config(seed=8), CONTENT)
