"""The bundled tiny VAE draws what the full one draws, and its training learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from training import generate
from training.miniature.check import MODEL, load_pipeline
from training.miniature.networks.vae import decode
from training.miniature.tiny_vae import FOLDER, compare, lessons, psnr_of, train_tiny_vae


def test_the_judge_sees_in_its_pictures_what_it_sees_in_the_full_ones() -> None:
    tiny = AutoencoderTiny.from_pretrained(FOLDER, torch_dtype=torch.float32)
    found = compare(load_pipeline(), tiny, captions=50)
    assert found.tiny >= found.full - 0.02
    assert found.likeness > 20


def test_generate_draws_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = []
    for folder, flags in (("full", []), ("tiny", ["--vae", str(FOLDER)])):
        asked = ["--model", str(MODEL), "--prompt=a photo of a red circle on a white background",
                 f"--output_dir={tmp_path / folder}", "--mixed_precision=no", *flags]  # fmt: skip
        assert generate.main(asked) == 0
        (path,) = json.loads(capsys.readouterr().out)
        pictures.append(np.asarray(Image.open(path))[None])
    assert 20 < psnr_of(*pictures) < 60


def test_a_little_training_brings_it_nearer_to_the_full_decoder() -> None:
    pipeline = load_pipeline()
    taught = lessons(pipeline, scenes=24, drawn=4)
    assert taught.latents.shape == (28, 12, 8, 8)
    likeness = [
        psnr_of(
            decode(train_tiny_vae(taught, steps=steps, batch=8), taught.latents), taught.decoded
        )
        for steps in (1, 30)
    ]
    assert likeness[1] > likeness[0] + 1
