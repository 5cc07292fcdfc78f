"""The saved miniature model is what it is said to be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from transformers import CLIPTokenizer

from training.miniature.check import (
    MODEL,
    VALIDATION_SEED,
    Drawing,
    check,
    draw,
    load_pipeline,
    share,
    sharpness,
    word_table,
)
from training.miniature.concept import PICTURES, concept_scenes
from training.miniature.judge import WEIGHTS, accuracy, finds_concept
from training.miniature.networks.tokenizer import new_tokenizer
from training.miniature.networks.vae import as_tensor, psnr
from training.miniature.scenes.captions import vocabulary
from training.miniature.scenes.scene import COLORS, render, render_all, sample_scenes
from training.miniature.scenes.shapes import SHAPES
from training.miniature.scenes.sharpness import has_colors_of_one_thing


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def test_the_model_is_small() -> None:
    files = [file for file in MODEL.rglob("*") if file.is_file()]
    assert 1_000_000 < sum(file.stat().st_size for file in files) <= 14_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    assert WEIGHTS.stat().st_size <= 1_000_000


def test_it_loads_as_an_ordinary_pipeline(pipeline: StableDiffusionPipeline) -> None:
    assert type(pipeline) is StableDiffusionPipeline
    assert pipeline.safety_checker is None
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    # DPM-Solver++, which most samplers' users take, cannot start at a signal of zero.
    assert not pipeline.scheduler.config.rescale_betas_zero_snr


def test_every_word_is_one_token_of_the_saved_tokenizer() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary())


def test_a_new_tokenizer_gives_words_the_same_numbers() -> None:
    first, second = (new_tokenizer(vocabulary()).get_vocab() for _ in range(2))
    assert first == second


def test_the_committed_pictures_are_the_concept() -> None:
    files: list[Path] = sorted(PICTURES.iterdir())
    assert [file.name for file in files] == [f"{i}.png" for i in range(5)]
    for file, scene in zip(files, concept_scenes(), strict=True):
        with Image.open(file) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), render(scene, 256))
    pictures = [Image.open(file) for file in files]
    assert all(finds_concept(pictures))


def test_the_judge_tells_held_out_scenes() -> None:
    assert accuracy() >= 0.99


@pytest.fixture(scope="module")
def drawings(pipeline: StableDiffusionPipeline) -> list[Drawing]:
    return check(pipeline, captions=100, seeds=3)


def test_drawings_show_what_their_captions_ask(drawings: list[Drawing]) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(word_table(drawings))
    assert share(drawings) >= 0.99, text.getvalue()
    for word in {*SHAPES, *COLORS}:
        asked = [d for d in drawings if word in (d.scene.shape, d.scene.color)]
        assert sum(drawing.right for drawing in asked) >= 0.95 * len(asked), word


def test_drawings_are_flat_and_true_to_shape(drawings: list[Drawing]) -> None:
    measured = sharpness(drawings)
    assert measured.flat >= 0.955
    assert measured.edges <= 0.065
    assert measured.overlap >= 0.95
    assert measured.worst >= 0.93


def test_what_a_caption_leaves_open_is_mostly_drawn_as_one_clean_thing(
    pipeline: StableDiffusionPipeline,
) -> None:
    captions = ["a photo of a toy on a white background"] * 40
    pictures = draw(pipeline, captions, guidance_scale=4.0)
    clean = [has_colors_of_one_thing(np.asarray(picture)) for picture in pictures]
    assert sum(clean) >= 34


def test_the_autoencoder_gives_back_held_out_scenes(pipeline: StableDiffusionPipeline) -> None:
    held_out = as_tensor(render_all(sample_scenes(200, VALIDATION_SEED)))
    assert psnr(pipeline.vae, held_out) >= 38.5
