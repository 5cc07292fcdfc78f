"""What diffusers' own tests of its LoRA script ask of it, with their flags, on our entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.captioned import make_captioned
from tests.hub import serving
from training.config.lora import LORA_NAME
from training.lora import main

FILE = f"{LORA_NAME}.safetensors"
SCRIPT = [
    "--resolution", "64", "--center_crop", "--random_flip", "--train_batch_size", "1",
    "--gradient_accumulation_steps", "1", "--learning_rate", "5.0e-04", "--scale_lr",
    "--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--checkpointing_steps=2",
    "--seed=0", "--num_validation_images=0",
]  # fmt: skip
OURS = ["--num_evaluation_samples=1", "--report_to=none"]


@pytest.fixture
def script(tiny_model: Path, tmp_path: Path) -> list[str]:
    """The flags that these tests share; those of ours save time alone."""
    pictures = make_captioned(tmp_path / "pictures")
    return [
        *("--pretrained_model_name_or_path", str(tiny_model), "--train_data_dir", str(pictures)),
        *("--output_dir", str(tmp_path / "run"), *SCRIPT, *OURS),
    ]


def checkpoints(run: Path) -> set[str]:
    return {name for name in os.listdir(run) if "checkpoint" in name}


def draw_with(model: Path, run: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.load_lora_weights(run)
    pipeline("a prompt", num_inference_steps=1)


def test_only_as_many_checkpoints_stay_as_asked_for(
    script: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    assert main([*script, "--max_train_steps", "6", "--checkpoints_total_limit=2"]) == 0
    draw_with(tiny_model, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == {"checkpoint-4", "checkpoint-6"}


def test_a_run_resumed_with_a_limit_removes_several_checkpoints(
    script: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main([*script, "--max_train_steps", "4"]) == 0
    draw_with(tiny_model, run)
    assert checkpoints(run) == {"checkpoint-2", "checkpoint-4"}
    resumed = ["--resume_from_checkpoint=checkpoint-4", "--checkpoints_total_limit=2"]
    assert main([*script, "--max_train_steps", "8", *resumed]) == 0
    draw_with(tiny_model, run)
    assert checkpoints(run) == {"checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize("parts", [{"unet"}, {"unet", "text_encoder"}])
def test_every_tensor_of_the_file_is_a_loras_of_a_part_that_was_trained(
    script: list[str], parts: set[str], tmp_path: Path
) -> None:
    more = ["--train_text_encoder"] if "text_encoder" in parts else []
    assert main([*script, "--max_train_steps", "2", *more]) == 0
    keys = load_file(tmp_path / "run" / FILE).keys()
    assert all("lora" in key for key in keys)
    assert {key.split(".")[0] for key in keys} == parts


def test_no_pictures_are_drawn_of_a_prompt_where_none_are_asked_for(
    script: list[str], tmp_path: Path
) -> None:
    assert main([*script, "--max_train_steps", "2", "--validation_prompt", "a cat"]) == 0
    assert not list((tmp_path / "run").rglob("*-seed-*.png"))
    assert (tmp_path / "run" / "report.html").is_file()


def of_the_hub(name: str, endpoint: str, words: list[str], cwd: Path) -> tuple[int, str]:
    """The exit code and messages of a run from a dataset's name."""
    place = words.index("--train_data_dir")
    words = [*words[:place], "--dataset_name", name, *words[place + 2 :]]
    done = subprocess.run(
        [sys.executable, "-m", "training.lora", *words, "--max_train_steps=2"],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cwd / "hub")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_dataset_of_the_hub_is_trained_from_by_its_name(
    script: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    train = make_captioned(tmp_path / "castles" / "data" / "train")
    lines = [
        f'{{"file_name": "{number}.png", "text": "a red cat"}}\n' for number in range(5)
    ]  # the captions beside the pictures are passed over
    (train / "metadata.jsonl").write_text("".join(lines))
    make_captioned(tmp_path / "castles" / "data" / "test")
    with serving({}, {"me/castles": tmp_path / "castles"}) as hub:
        code, said = of_the_hub("me/castles", hub.endpoint, script, tmp_path)
        assert code == 0, said
        assert not any("data/test" in path for _, path in hub.requests if "resolve" in path)
    draw_with(tiny_model, tmp_path / "run")
    config = (tmp_path / "run" / "config.toml").read_text()
    assert "/data/train" in config


def test_a_dataset_that_cannot_be_trained_from_is_refused_with_a_way_on(
    script: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tables" / "data").mkdir(parents=True)
    (tmp_path / "tables" / "data" / "train-0.parquet").write_bytes(b"PAR1")
    with serving({}, {"me/tables": tmp_path / "tables"}) as hub:
        code, said = of_the_hub("me/tables", hub.endpoint, script, tmp_path)
        assert code == 2
        assert "me/tables: has no pictures as files (it has: data/train-0.parquet)" in said
        assert "datasets.load_dataset('me/tables', split='train')" in said
        code, said = of_the_hub("me/none", hub.endpoint, script, tmp_path)
        assert code == 2
        assert "--dataset_name me/none: is no folder here, and the hub does not give it" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
