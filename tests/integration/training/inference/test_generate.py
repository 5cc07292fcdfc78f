"""Drawing with a model, words, LoRAs and VAEs from files, and drawing again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch._inductor import config as inductor_config

from tests.tiny_model import make_kohya_lora
from training.generate import main
from training.inference import long_prompts, png
from training.models.embeds import save_a1111, save_embeds
from training.models.loading import load_tokenizer

Generate = Callable[..., list[Path]]


@pytest.fixture
def generate(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Generate:
    """Draws with the tiny model; returns the pictures' paths."""

    def run(*flags: str, folder: str = "out") -> list[Path]:
        ask = ["--model", str(tiny_model), "--num_inference_steps=2", "--mixed_precision=no",
               f"--output_dir={tmp_path / folder}", *flags]  # fmt: skip
        assert main(ask) == 0
        return [Path(path) for path in json.loads(capsys.readouterr().out)]

    return run


@pytest.fixture
def refused(tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The one message with which flags over the tiny model are refused; nothing is written."""

    def run(*flags: str, model: bool = True) -> str:
        base = ["--model", str(tiny_model)] if model else []
        assert main([*base, "--prompt=a cat", f"--output_dir={tmp_path / 'none'}", *flags]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("error: ") == 1
        assert "Traceback" not in printed.err
        assert not (tmp_path / "none").exists()
        return printed.err

    return run


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def rows(width: int = 32, count: int = 1) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    """A LoRA of the tiny model."""
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    return make_kohya_lora(tmp_path / "lcm.safetensors", unet)


def test_a_picture_is_drawn_again_bit_for_bit(
    precision: str, generate: Generate, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = generate(
        "--prompt=a red cat", "--negative_prompt=dog", "--scheduler=euler_a", "--seed=9",
        "--height=32", "--width=40", f"--mixed_precision={precision}",
    )  # fmt: skip
    assert Image.open(path).size == (40, 32)
    assert main(["--again", str(path)]) == 0
    printed = capsys.readouterr()
    assert "the same, pixel for pixel" in printed.err
    (again,) = json.loads(printed.out)
    assert again == str(path.with_name(f"{path.stem}-again.png"))
    assert pixels(Path(again)).tobytes() == pixels(path).tobytes()
    assert main(["--again", str(path), "--seed=10"]) == 0
    printed = capsys.readouterr()
    assert "with other settings" in printed.err
    (other,) = json.loads(printed.out)
    assert pixels(Path(other)).tobytes() != pixels(path).tobytes()


def test_the_settings_are_in_the_picture_as_a1111_writes_them(generate: Generate) -> None:
    (path,) = generate("--prompt=a cat", "--negative_prompt=dog", "--seed=4")
    said = Image.open(path).info["parameters"]
    assert said == (
        "a cat\nNegative prompt: dog\nSteps: 2, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 4, "
        "Size: 32x32, Model: tiny"
    )
    picture, _ = png.read(path)
    assert (picture.prompt, picture.seed, picture.settings.scheduler) == ("a cat", 4, "dpmpp_2m")


def test_prompts_of_a_file_and_a_grid(generate: Generate, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    drawn = generate(f"--prompt_file={tmp_path / 'prompts.txt'}", "--num_images=2", "--seed=5")
    assert [png.read(path)[0].seed for path in drawn] == [5, 6, 5, 6]
    (grid,) = (tmp_path / "out").glob("grid-*.png")
    assert Image.open(grid).size == (32 * 2 + 4, 32 * 2 + 4)
    assert len(drawn) == 4


def test_words_of_several_files_are_what_diffusers_draws(
    generate: Generate, tiny_model: Path, tmp_path: Path
) -> None:
    save_embeds(tmp_path / "learned_embeds.safetensors", "<new>", rows(count=2))
    other = save_a1111(tmp_path, "<other>", rows())
    (path,) = generate(
        f"--embeds={tmp_path / 'learned_embeds.safetensors'}", f"--embeds=<o>={other}",
        "--prompt=a <new>, <o>", "--scheduler=ddim", "--seed=3",
    )  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)  # its scheduler is DDIM
    pipeline.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    pipeline.load_textual_inversion(other, token="<o>")
    wanted = pipeline("a <new>, <o>", num_inference_steps=2, height=32, width=32,
                      generator=torch.Generator().manual_seed(3)).images[0]  # fmt: skip
    assert np.array_equal(pixels(path), np.asarray(wanted))


def test_a_lora_with_lcm_in_four_steps_and_a_tiny_vae(
    generate: Generate, lora: Path, tmp_path: Path
) -> None:
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    tiny.save_pretrained(tmp_path / "taesd")
    fast = ["--prompt=a cat", "--scheduler=lcm", "--num_inference_steps=4"]
    (plain,) = generate(*fast)
    (with_lora,) = generate(*fast, f"--lora={lora}")
    (half,) = generate(*fast, f"--lora={lora}:0.5")
    (none,) = generate(*fast, f"--lora={lora}:0")
    (with_vae,) = generate(*fast, f"--vae={tmp_path / 'taesd'}")
    found = {path.name: pixels(path).tobytes() for path in (plain, with_lora, half, with_vae)}
    assert len(set(found.values())) == 4
    assert np.abs(pixels(none).astype(int) - pixels(plain)).max() <= 1
    settings = png.read(with_lora)[0].settings
    assert (settings.num_inference_steps, settings.guidance_scale) == (4, 1.0)


def test_a_fused_lora_is_its_product_over_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    from training.models.lora.fuse import fuse_loras

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    layer = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    down, up = torch.randn(2, layer.weight.shape[1]), torch.randn(layer.weight.shape[0], 2)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up},
        tmp_path / "diffusers.safetensors",
    )
    before = layer.weight.detach().clone()
    fuse_loras(pipeline, [(tmp_path / "diffusers.safetensors", 0.5)])
    after = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight
    assert torch.allclose(after, before + 0.5 * up @ down, atol=1e-5)


def test_a_long_prompt_is_encoded_in_pieces(tiny_model: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    tokenizer = load_tokenizer(str(tiny_model), subfolder="tokenizer")
    room = tokenizer.model_max_length - 2
    long, short = f"{'red ' * room}cat", "a dog"
    with torch.no_grad():
        first, second = long_prompts.encode([long, short], tokenizer, pipeline.text_encoder, [])
        wanted, _ = pipeline.encode_prompt(short, "cpu", 1, False)
    assert first.shape == second.shape == (1, 2 * tokenizer.model_max_length, 32)
    assert torch.equal(second[:, : tokenizer.model_max_length], wanted)
    assert long_prompts.split([1, 2, 7, 8, 3], 3, [[7, 8]]) == [[1, 2], [7, 8, 3]]


def test_bad_flags_are_refused_with_the_reason(refused: Any, tiny_model: Path) -> None:
    assert "--scheduler dpm++_2m: did you mean dpmpp_2m?" in refused("--scheduler=dpm++_2m")
    assert "--height 33: must be a multiple of 8; the nearest is 32" in refused("--height=33")
    assert "--num_inference_steps 0" in refused("--num_inference_steps=0")
    assert "give one of a run's folder, a model" in refused(str(tiny_model))
    assert "holds no run" in refused(str(tiny_model), model=False)
    assert "give the file of the learned word" in refused("--prompt=a <new>")


def test_files_of_another_base_model_are_refused(
    refused: Any, tiny_model: Path, tmp_path: Path
) -> None:
    save_embeds(tmp_path / "wide.safetensors", "<new>", rows(768))
    found = refused(f"--embeds={tmp_path / 'wide.safetensors'}")
    assert f"--embeds {tmp_path / 'wide.safetensors'}: its rows are 768 wide" in found
    assert "takes 32" in found
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    other = make_kohya_lora(tmp_path / "other.safetensors", unet, width=48)
    assert f"--lora {other}: is no LoRA for this model" in refused(f"--lora={other}")
    save_file({"weight": torch.ones(2)}, tmp_path / "none.safetensors")
    assert "is no LoRA for this model" in refused(f"--lora={tmp_path / 'none.safetensors'}")
    for text in ("a red cat", "a dog"):  # torch's unpickler ends in another way each
        (tmp_path / "caption.txt").write_text(text)
        assert "caption.txt: " in refused(f"--lora={tmp_path / 'caption.txt'}")
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "vae16")
    assert "a VAE of another base model: its latents have channels: 16" in refused(
        f"--vae={tmp_path / 'vae16'}"
    )
    vae = AutoencoderKL.from_pretrained(tiny_model, subfolder="vae")
    vae.register_to_config(scaling_factor=0.13025)
    vae.save_pretrained(tmp_path / "xl")
    assert "its latents are scaled by 0.13025" in refused(f"--vae={tmp_path / 'xl'}")


def test_pictures_that_cannot_be_drawn_again(
    refused: Any, generate: Generate, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    found = refused("--again", str(tmp_path / "plain.png"), model=False)
    assert "plain.png: has no settings in it" in found
    save_embeds(tmp_path / "word.safetensors", "<new>", rows())
    (path,) = generate(f"--embeds={tmp_path / 'word.safetensors'}", "--prompt=a <new>")
    save_embeds(tmp_path / "word.safetensors", "<new>", rows() + 1)
    found = refused("--again", str(path), model=False)
    assert "word.safetensors: is another file than when the picture was drawn" in found


def test_the_compiled_engine_without_a_compiler(refused: Any) -> None:
    with inductor_config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert "--engine compiled: there is no C++ compiler." in refused("--engine=compiled")


def test_the_compiled_engine_draws_what_torch_draws_with_one_compiled_graph(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UNet goes to inductor whole and once, with freezing; what inductor was given is run in
    place of what it makes of that."""
    compiled: list[dict[str, Any]] = []

    def compile_fx(graph: Any, inputs: Any, config_patches: Any = None, **named: Any) -> Any:
        compiled.append(dict(config_patches))
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    torch._dynamo.reset()
    ask = ["--prompt=a cat", "--prompt=a dog", "--height=32", "--width=40"]
    ours = [pixels(path) for path in generate(*ask, "--engine=compiled", folder="compiled")]
    assert compiled == [{"freezing": True}]
    expected = [pixels(path) for path in generate(*ask)]
    for one, other in zip(ours, expected, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert np.abs(ours[0].astype(int) - ours[1]).max() > 1


def test_the_compiled_engine_draws_what_torch_draws(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the C++ compiler, and none of what it has compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled-code"))
    torch._dynamo.reset()
    ask = ["--prompt=a cat", "--height=32", "--width=40", "--num_inference_steps=2"]
    (ours,) = generate(*ask, "--engine=compiled", folder="compiled")
    (expected,) = generate(*ask)
    assert np.abs(pixels(ours).astype(int) - pixels(expected)).max() <= 1
    assert list((tmp_path / "compiled-code").rglob("*.so"))
