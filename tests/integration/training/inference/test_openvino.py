"""OpenVINO, in the environment that has it (`make test-openvino`)."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from PIL import Image

from tests.short_run import short_run
from tests.tiny_model import make_kohya_lora
from training import export, generate, textual_inversion
from training.config.groups import ModelConfig
from training.errors import UserError
from training.inference.comparison import load_learned
from training.models.loading import load_models
from training.models.merge_tokens import merge_tokens
from training.openvino.record import read_record
from training.openvino.write import check_vocabulary

pytestmark = pytest.mark.openvino

BUNDLED = Path(__file__).parents[4] / "training" / "miniature" / "model"


def test_the_pinned_packages_work_together_without_torchvision() -> None:
    import nncf
    import openvino
    import openvino_genai
    import openvino_tokenizers
    from diffusers import AutoencoderKL
    from optimum.intel import OVStableDiffusionPipeline

    assert importlib.util.find_spec("torchvision") is None
    assert all((nncf, openvino_genai, openvino_tokenizers, OVStableDiffusionPipeline))
    vae = AutoencoderKL.from_pretrained(BUNDLED / "vae", torch_dtype=torch.float32).eval()
    vae.forward = lambda latents: vae.decode(latents, return_dict=False)[0]
    latents = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vae(latents)
        converted = openvino.convert_model(vae, example_input=latents)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(compiled(latents)[0]), expected, atol=1e-4, rtol=0)


PROMPT = "a <new> on a red background"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path, latents: Path) -> Path:
    """A finished run of the bundled model whose word has two vectors."""
    folder = tmp_path_factory.mktemp("openvino") / "run"
    changes = {"initializer_token": "cat", "num_vectors": 2, "resolution": 64, "max_train_steps": 2}
    assert textual_inversion.main(short_run(BUNDLED, pictures, latents, folder, **changes)) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """Its export, in fp32 and of a fixed shape."""
    folder = run / "openvino"
    assert export.main([str(run), "--output_dir", str(folder)]) == 0
    return folder


def arrays(pipeline: Any, prompt: str = PROMPT, width: int = 64) -> Any:
    """Pictures of a prompt [1, 64, width, 3], 0..1."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return pipeline(
        prompt,
        height=64,
        width=width,
        num_inference_steps=6,
        guidance_scale=1.5,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images


def test_an_export_draws_what_torch_draws_with_a_word_of_two_vectors(
    run: Path, exported: Path
) -> None:
    from optimum.intel import OVStableDiffusionPipeline

    _, torchs = load_learned(run)
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    ours = OVStableDiffusionPipeline.from_pretrained(
        exported, ov_config=precise, dynamic_shapes=False
    )
    # Its tokenizer knows the tokens by their names: `load_textual_inversion` has not been called.
    prompt_ids = ours.tokenizer("<new> <new>_1").input_ids[1:-1]
    assert prompt_ids == [len(ours.tokenizer) - 2, len(ours.tokenizer) - 1]
    assert ours.unet.model.inputs[0].get_partial_shape().to_shape() == [2, 12, 8, 8]
    expected = arrays(torchs)
    assert np.abs(arrays(ours) - expected).max() < 1e-3
    assert np.abs(arrays(ours, "a green square on a blue background") - expected).max() > 0.1


def test_openvino_genai_draws_with_the_word(run: Path, exported: Path) -> None:
    import openvino_genai

    pipeline = openvino_genai.Text2ImagePipeline(
        str(exported), "CPU", INFERENCE_PRECISION_HINT="f32"
    )

    def drawn(prompt: str) -> Any:
        return pipeline.generate(
            prompt,
            width=64,
            height=64,
            num_inference_steps=6,
            guidance_scale=1.5,
            rng_seed=7,
        ).data

    assert drawn("a <new> <new>_1").shape == (1, 64, 64, 3)
    assert np.abs(drawn("a <new> <new>_1").astype(int) - drawn("a <new>").astype(int)).max() > 8


def test_int8_weights_take_a_third_of_the_room_and_any_shape_is_left_open(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    words = [str(run), "--output_dir", str(small), "--dynamic", "--weights", "int8"]
    assert export.main(words) == 0
    size = {
        folder: (folder / "unet" / "openvino_model.bin").stat().st_size
        for folder in (small, exported)
    }
    assert size[small] < size[exported] / 3
    record = read_record(small)
    assert (record.weights, record.height, record.words) == ("int8", None, ["<new>", "<new>_1"])
    assert record.vocabulary == read_record(exported).vocabulary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_generate_draws_with_the_export_what_it_draws_with_torch(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(*flags: str) -> Any:
        words = [str(run), "--prompt", PROMPT, "--num_inference_steps", "4", *flags]
        assert generate.main([*words, "--output_dir", str(tmp_path)]) == 0, capsys.readouterr().err
        (path,) = json.loads(capsys.readouterr().out)
        with Image.open(path) as picture:
            return np.asarray(picture).astype(int)

    ours = drawn("--engine", "openvino")
    assert np.abs(ours - drawn()).max() <= 1
    assert np.abs(ours - drawn("--seed", "1")).max() > 25


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--width", "128"], "draws 64 x 64 pixels, not 128 x 64"),
        (["--guidance_scale", "1"], "export with --no_guidance"),
        (["--exported", "nowhere"], "--output_dir nowhere"),
        (["--vae", "tiny"], "the model's own VAE"),
    ],
)
def test_generate_refuses_what_the_export_cannot_draw(
    run: Path, exported: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--prompt", PROMPT, "--engine", "openvino", *flags]
    assert generate.main(words) == 2
    assert said in capsys.readouterr().err


def test_generate_refuses_an_export_of_another_word_or_vocabulary(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(change: dict[str, Any]) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        record = json.loads((exported / "export.json").read_text())
        (folder / "export.json").write_text(json.dumps(record | change))
        words = [str(run), "--prompt", PROMPT, "--engine", "openvino", "--exported", str(folder)]
        assert generate.main(words) == 2
        return capsys.readouterr().err

    assert "other learned words" in refusal({"embeds": ["0" * 64]})
    assert "another vocabulary" in refusal({"vocabulary": "0" * 64})
    assert "was exported from another" in refusal({"model": "another"})
    embeds = f"<other>={run / 'learned_embeds.safetensors'}"
    words = ["--model", str(BUNDLED), "--embeds", embeds, "--exported", str(exported)]
    assert generate.main([*words, "--prompt", "a <other>", "--engine", "openvino"]) == 2
    assert "as <new>, not as <other>" in capsys.readouterr().err


@pytest.fixture(scope="module")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A LoRA and a tiny VAE of the bundled model, with random weights, as flags."""
    folder = tmp_path_factory.mktemp("few-steps")
    unet = UNet2DConditionModel.from_pretrained(BUNDLED / "unet")
    lora = make_kohya_lora(folder / "lcm.safetensors", unet)
    torch.manual_seed(0)
    AutoencoderTiny(
        latent_channels=12, encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(folder / "tiny")  # fmt: skip
    return ["--lora", f"{lora}:0.25", "--vae", str(folder / "tiny")]


def test_a_lora_and_a_tiny_vae_are_in_the_export_and_few_steps_need_no_guidance(
    run: Path, few_steps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fast"
    words = [str(run), *few_steps, "--no_guidance", "--output_dir", str(folder)]
    assert export.main(words) == 0
    record = read_record(folder)
    assert not record.guidance
    assert [weight for _, weight in record.loras] == [0.25]
    capsys.readouterr()

    def drawn(*flags: str) -> Any:
        words = [str(run), "--prompt", PROMPT, "--scheduler", "lcm", *flags]
        assert generate.main([*words, "--output_dir", str(tmp_path)]) == 0, capsys.readouterr().err
        (path,) = json.loads(capsys.readouterr().out)
        with Image.open(path) as picture:
            return np.asarray(picture).astype(int)

    exported = ["--engine", "openvino", "--exported", str(folder)]
    assert np.abs(drawn(*exported, *few_steps) - drawn(*few_steps)).max() <= 1
    assert np.abs(drawn(*few_steps) - drawn()).max() > 25
    lora, vae = few_steps[:2], few_steps[2:]
    for flags, said in (
        ([*few_steps, "--guidance_scale", "2"], "for no guidance"),
        (vae, "other LoRAs"),
        (["--lora", lora[1].replace("0.25", "0.5"), *vae], "other LoRAs"),
        (lora, "another VAE"),
    ):
        words = [str(run), "--prompt", PROMPT, "--scheduler", "lcm", *exported, *flags]
        assert generate.main(words) == 2
        assert said in capsys.readouterr().err


def test_a_hybrid_export_multiplies_in_int8_and_draws_nearly_the_same(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from optimum.intel import OVStableDiffusionPipeline

    folder = tmp_path / "hybrid"
    words = [str(run), "--output_dir", str(folder), "--weights", "hybrid"]
    assert export.main([*words, "--calibration_steps", "12"]) == 0
    printed = capsys.readouterr()
    assert "calibrating: step 12 of 12" in printed.err
    assert json.loads(printed.out)["weights"] == "hybrid"  # nothing of NNCF's is on stdout
    record = read_record(folder)
    assert record.calibration == ["a photo of a <new>", "a photo of a clean <new>"]
    hybrid = OVStableDiffusionPipeline.from_pretrained(folder, dynamic_shapes=False)
    kinds = [op.get_type_name() for op in hybrid.unet.model.get_ops()]
    assert kinds.count("FakeQuantize") > 50
    size = {
        each: (each / "unet" / "openvino_model.bin").stat().st_size for each in (folder, exported)
    }
    assert size[folder] < size[exported] / 2
    precise = OVStableDiffusionPipeline.from_pretrained(exported, dynamic_shapes=False)
    near = np.abs(arrays(hybrid) - arrays(precise)).mean()
    other = np.abs(arrays(hybrid) - arrays(hybrid, "a green square on a blue background")).mean()
    assert near < other / 2


def test_merged_tokens_are_merged_in_the_export_as_in_torch(run: Path, tmp_path: Path) -> None:
    from optimum.intel import OVStableDiffusionPipeline

    shape = ["--height", "64", "--width", "96"]
    words = [str(run), "--output_dir", str(tmp_path / "merged"), "--merge_tokens", "0.4", *shape]
    assert export.main(words) == 0
    assert read_record(tmp_path / "merged").merge_tokens == 0.4
    _, torchs = load_learned(run)
    merge_tokens(torchs.unet, 0.4)
    ours = OVStableDiffusionPipeline.from_pretrained(
        tmp_path / "merged",
        ov_config={"INFERENCE_PRECISION_HINT": "f32"},
        dynamic_shapes=False,
    )
    assert np.abs(arrays(ours, width=96) - arrays(torchs, width=96)).max() < 1e-3
    left = 8 * 12 - int(8 * 12 * 0.4)
    shapes = [port.get_partial_shape() for op in ours.unet.model.get_ops() for port in op.outputs()]
    assert any(left in list(shape.to_shape()) for shape in shapes if shape.is_static)
    assert ours.unet.config["sample_size"] == 8


def test_what_cannot_be_exported_is_said_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    events = unfinished / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if '"done"' not in line]
    events.write_text("\n".join(kept) + "\n")
    other = tmp_path / "mine"
    other.mkdir()
    output = tmp_path / "out"
    for words, said in (
        ([str(unfinished), "--output_dir", str(output)], "has not finished"),
        ([str(run), "--output_dir", str(output), "--height", "60"], "multiple of 8"),
        ([str(run), "--output_dir", str(output), "--merge_tokens", "0.8"], "from 0 (none) to 0.75"),
        (
            [str(run), "--output_dir", str(output), "--merge_tokens", "0.4", "--dynamic"],
            "needs a fixed shape",
        ),
        ([str(run), "--output_dir", str(output), "--no_guidance", "--dynamic"], "draws both ways"),
        (
            [str(run), "--output_dir", str(output), "--calibration_prompts", str(tmp_path)],
            "--calibration_prompts",
        ),
        (
            [str(run), "--output_dir", str(output), "--calibration_steps", "0"],
            "must be at least 1",
        ),
        ([str(run), "--output_dir", str(other)], "no export to be replaced"),
        ([str(tmp_path / "none"), "--output_dir", str(output)], "none"),
    ):
        assert export.main(words) == 2
        assert said in capsys.readouterr().err
    assert not output.exists()
    assert list(other.iterdir()) == []
    models = load_models(ModelConfig(pretrained_model_name_or_path=str(BUNDLED)))
    models.tokenizer.add_tokens(["<stray>"])
    with pytest.raises(UserError, match="would read other rows"):
        check_vocabulary(models)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Make an export"):
        read_record(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(UserError, match="no record of an export"):
        read_record(tmp_path)


def checked(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What comes of `check_packages` in a process whose home is tmp_path."""
    code = (
        "from training.errors import UserError\n"
        "from training.openvino.packages import check_packages\n"
        "try:\n    check_packages('x')\nexcept UserError as error:\n    print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "CI": "", "HOME": str(tmp_path), **variables},
    )  # fmt: skip


def test_openvino_is_told_to_report_nothing_and_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    assert checked(tmp_path).stdout == ""
    assert not (tmp_path / "intel").exists()


def test_a_preloaded_tcmalloc_is_refused_before_it_crashes(tmp_path: Path) -> None:
    library = ctypes.util.find_library("tcmalloc_minimal")
    assert library, "libtcmalloc-minimal4 is not installed"
    said = checked(tmp_path, LD_PRELOAD=library).stdout
    assert "OpenVINO crashes where tcmalloc is preloaded" in said
