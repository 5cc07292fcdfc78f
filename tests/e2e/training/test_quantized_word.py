"""A learned word and a quantized UNet together: the judge still finds the concept."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import export, quantize, textual_inversion
from training.inference import engines
from training.inference.generate import source_of_run
from training.inference.settings import File, Settings, Word
from training.miniature.judge import finds_concept

pytestmark = pytest.mark.openvino

MINIATURE = Path(__file__).parents[3] / "training" / "miniature"
MODEL = f"--pretrained_model_name_or_path={MINIATURE / 'model'}"


def test_a_learned_word_is_drawn_by_a_unet_that_was_trained_in_8_bits(tmp_path: Path) -> None:
    word, run, exported = tmp_path / "word", tmp_path / "run", tmp_path / "exported"
    learning = [
        f"--config={MINIATURE / 'demo.toml'}", MODEL, f"--train_data_dir={MINIATURE / 'concept'}",
        f"--output_dir={word}", "--report_to=none", "--num_validation_images=1",
        "--gradient_accumulation_steps=2",
        "--validation_steps=150", "--num_inference_steps=1", "--evaluation_steps=150",
    ]  # fmt: skip
    assert textual_inversion.main(learning) == 0
    # Pictures of other things: what the UNet is quantized on never shows the concept.
    training = [
        f"--config={MINIATURE / 'demo_quantize.toml'}", MODEL, "--max_train_steps=4",
        f"--train_data_dir={MINIATURE / 'style'}", f"--output_dir={run}",
        "--calibration_samples=16", "--checkpointing_steps=4", "--num_evaluation_samples=4",
    ]  # fmt: skip
    assert quantize.main(training) == 0
    rows = word / "learned_embeds.safetensors"
    words = [str(run), "--embeds", f"<buddy>={rows}", "--output_dir", str(exported)]
    assert export.main(words) == 0
    source, _ = source_of_run(run, None)
    buddy = Word(token="<buddy>", file=File.at(rows))
    settings = Settings(
        engine="openvino", scheduler="ddim", height=64, width=64, num_inference_steps=20,
        guidance_scale=4.0,
    )  # fmt: skip
    artist = engines.load(
        source.model_copy(update={"words": (buddy,), "exported": exported}), settings, print
    )
    drawn, without = (
        [
            artist.draw(f"a photo of a {noun} on a {color} background", seed, lambda step: None)
            for color in ("white", "blue")
            for seed in range(5)
        ]
        for noun in ("<buddy>", "toy")
    )
    assert sum(finds_concept(drawn)) >= 8
    assert sum(finds_concept(without)) <= 2
