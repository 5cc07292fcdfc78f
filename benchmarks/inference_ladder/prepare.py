"""What the rungs draw with: a model, a few-step LoRA, a tiny VAE, and the exports of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTokenizer

from benchmarks.inference_ladder.rungs import LORA_WEIGHT, Rung
from benchmarks.train_step.model import CONFIGS, ROOT, make_model
from tests.tiny_model import make_kohya_lora, make_tokenizer
from training.miniature.check import MODEL

WORDS, LENGTH = 49_408, 77
"""Of the tokenizer of Stable Diffusion 1.5: its tokens, and how many of them a prompt has."""
CALIBRATION_STEPS = {False: 2, True: 64}
"""By whether it is the bundled model. What scales random weights get does not change the time."""


def prepare(folder: Path, mini: bool, rungs: list[Rung]) -> None:
    """Make what is not yet there in `folder`.

    Raises:
        RuntimeError: an export failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not mini and not (folder / "model").exists():
        _say("writing random weights of Stable Diffusion 1.5's size")
        shutil.rmtree(folder / "partial", ignore_errors=True)
        make_model(folder / "partial")
        _enlarge(folder / "partial" / "tokenizer", folder / "words")
        (folder / "partial").rename(folder / "model")
    if not (folder / "lcm.safetensors").exists():
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(str((MODEL if mini else CONFIGS) / "unet"))
            )
        make_kohya_lora(folder / "lcm.safetensors", unet, rank=4 if mini else 64)
    if not (folder / "tiny").exists():
        torch.manual_seed(0)
        channels = {"latent_channels": 12} if mini else {}
        AutoencoderTiny(**channels).save_pretrained(folder / "tiny")
    for rung in rungs:
        if rung.export is not None and not (folder / "exports" / rung.key).exists():
            _say(f"exporting for {rung.title}")
            _export(folder, mini, rung)


def model_of(folder: Path, mini: bool) -> Path:
    """The model that `prepare` made, or the bundled one."""
    return MODEL if mini else folder / "model"


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _export(folder: Path, mini: bool, rung: Rung) -> None:
    assert rung.export is not None
    words = [sys.executable, "-m", "training.export", "--model", str(model_of(folder, mini)),
             "--output_dir", str(folder / "exports" / rung.key), *rung.export,
             "--calibration_steps", str(CALIBRATION_STEPS[mini])]  # fmt: skip
    if rung.lcm:
        words += ["--lora", f"{folder / 'lcm.safetensors'}:{LORA_WEIGHT}"]
    if rung.tiny_vae:
        words += ["--vae", str(folder / "tiny")]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the export for {rung.key} failed:\n{ended.stderr[-2000:]}")


def _enlarge(tokenizer: Path, scratch: Path) -> None:
    """Give a model's tokenizer as many tokens as its text encoder's table has rows."""
    make_tokenizer(scratch)
    known: dict[str, int] = json.loads((scratch / "vocab.json").read_text())
    *words, begin, end = sorted(known, key=known.__getitem__)
    words += [f"unused{number}</w>" for number in range(WORDS - len(known))]
    everything = {word: number for number, word in enumerate([*words, begin, end])}
    (scratch / "vocab.json").write_text(json.dumps(everything))
    shutil.rmtree(tokenizer)
    CLIPTokenizer.from_pretrained(scratch, model_max_length=LENGTH).save_pretrained(tokenizer)
    shutil.rmtree(scratch)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
