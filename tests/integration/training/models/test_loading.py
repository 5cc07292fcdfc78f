"""Which models are read, from which files, and what is said of the others."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from tests.original_layout import write_single_file
from tests.training_fixtures import Flags
from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.models.files import single_file
from training.models.loading import Models, load_models, native_resolution, weights_digest
from training.storage.run_directory import read_config
from training.textual_inversion import main

WEIGHTS = {
    "text_encoder": "model",
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
}


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the model to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def config(model: Path, **changes: Any) -> TextualInversionConfig:
    return TextualInversionConfig.model_validate(
        {
            "pretrained_model_name_or_path": str(model),
            "train_data_dir": "pictures",
            "placeholder_token": "<new>",
            "initializer_token": "toy",
            **changes,
        }
    )


def complaint(model: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        load_models(config(model, **changes))
    return str(raised.value)


def digests(models: Models) -> list[str]:
    return [weights_digest(part) for part in (models.text_encoder, models.vae, models.unet)]


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- families ---


@pytest.mark.parametrize(
    "found", ["StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusionControlNetPipeline"]
)
def test_another_pipeline_is_named(found: str, model: Path) -> None:
    """Before its parts are looked for: those of other families have others."""
    change(model / "model_index.json", _class_name=found)
    shutil.rmtree(model / "unet")
    assert complaint(model).startswith(f"{model}: is a {found}. Supported are text-to-image models")


def test_an_index_that_is_none(model: Path) -> None:
    for text in ("[]", "{}", "text"):
        (model / "model_index.json").write_text(text)
        assert "its model_index.json is not a pipeline's" in complaint(model)


def test_a_pipeline_of_its_authors_own_code_is_named(model: Path) -> None:
    change(model / "model_index.json", _class_name=["my_pipeline", "MyPipeline"])
    assert "is a ['my_pipeline', 'MyPipeline']. Supported are" in complaint(model)


def test_a_folder_without_an_index_is_read(model: Path, tiny_model: Path) -> None:
    (model / "model_index.json").unlink()
    assert digests(load_models(config(model))) == digests(load_models(config(tiny_model)))


def rebuilt(model: Path, part: str, **values: object) -> None:
    """The same part with another config, and weights that fit it."""
    change(model / part / "config.json", **values)
    kind = type(getattr(StableDiffusionPipeline.from_pretrained(model.parent / "whole"), part))
    kind.from_config(kind.load_config(model / part)).save_pretrained(model / part)


@pytest.fixture
def whole(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "whole").symlink_to(tiny_model)
    return tmp_path / "whole"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"in_channels": 9}, "its UNet takes 9 channels, its VAE makes 4 (an inpainting model)"),
        ({"cross_attention_dim": 48}, "takes text of width 48, its text encoder makes 32"),
        (
            {
                "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80,
            },
            "its UNet wants more inputs, as SDXL's (addition_embed_type text_time)",
        ),
        ({"num_class_embeds": 4}, "its UNet wants a class beside the text"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("whole")
def test_a_unet_of_another_family_is_named(
    values: dict[str, object], what: str, model: Path
) -> None:
    rebuilt(model, "unet", **values)
    found = complaint(model)
    assert what in found
    assert "Supported are text-to-image models of Stable Diffusion 1.x and 2.x" in found


def test_a_tokenizer_that_does_not_say_how_much_the_model_takes(
    flags: Flags, model: Path, tiny_model: Path
) -> None:
    change(model / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    wanted = load_models(config(tiny_model)).tokenizer.model_max_length
    assert load_models(config(model)).tokenizer.model_max_length == wanted
    assert main(flags(pretrained_model_name_or_path=model, max_train_steps=1)) == 0


def test_a_tokenizer_of_another_model(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model / "tokenizer", tmp_path / "other")
    rules = json.loads((other / "tokenizer.json").read_text())
    words = rules["model"]["vocab"]
    words["zebra</w>"] = len(words)
    (other / "tokenizer.json").write_text(json.dumps(rules))
    found = complaint(model, tokenizer_name=str(other))
    assert "its tokenizer has 549 words, its text encoder 548" in found


def test_a_word_added_to_a_tokenizer_counts(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model / "tokenizer")
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tmp_path / "other")
    found = complaint(tiny_model, tokenizer_name=str(tmp_path / "other"))
    assert "its tokenizer has 549 words, its text encoder 548" in found


def test_a_model_needs_no_tokenizer_where_another_is_given(model: Path, tiny_model: Path) -> None:
    shutil.rmtree(model / "tokenizer")
    found = load_models(config(model, tokenizer_name=str(tiny_model / "tokenizer")))
    assert digests(found) == digests(load_models(config(tiny_model)))


# --- variants ---


def as_variant(model: Path, part: str, variant: str, keep: bool) -> None:
    plain = model / part / f"{WEIGHTS[part]}.safetensors"
    shutil.copy(plain, plain.with_name(f"{WEIGHTS[part]}.{variant}.safetensors"))
    if not keep:
        plain.unlink()


def test_a_variant_of_unet_and_vae_alone_is_read_with_a_line(model: Path, tiny_model: Path) -> None:
    for part in ("vae", "unet"):
        as_variant(model, part, "fp16", keep=False)
    notices: list[str] = []
    found = load_models(config(model, variant="fp16"), notices.append)
    assert notices == ["text_encoder: has no fp16 files, its plain ones are read"]
    assert digests(found) == digests(load_models(config(tiny_model)))


def test_a_whole_variant_is_read_without_a_word(model: Path) -> None:
    for part in WEIGHTS:
        as_variant(model, part, "fp16", keep=False)
    notices: list[str] = []
    load_models(config(model, variant="fp16"), notices.append)
    assert notices == []


def test_a_broken_variant_is_not_passed_over(model: Path) -> None:
    as_variant(model, "unet", "fp16", keep=True)
    (model / "unet" / f"{WEIGHTS['unet']}.fp16.safetensors").write_bytes(b"text")
    assert "its unet cannot be loaded: " in complaint(model, variant="fp16")


def test_plain_safetensors_are_read_before_a_pickle_of_the_variant(model: Path) -> None:
    torch.save({}, model / "unet" / f"{WEIGHTS['unet']}.fp16.bin")
    notices: list[str] = []
    load_models(config(model, variant="fp16"), notices.append)
    assert "unet: has no fp16 files, its plain ones are read" in notices


# --- pickles ---


def pickled(model: Path) -> None:
    """Weights as .bin alone, as older tools write them."""
    for part, name in WEIGHTS.items():
        path = model / part / f"{name}.safetensors"
        kind = "pytorch_model" if part == "text_encoder" else name
        torch.save(load_file(path), model / part / f"{kind}.bin")
        path.unlink()


def test_pickles_are_refused_with_the_way_out(model: Path) -> None:
    pickled(model)
    found = complaint(model)
    assert f"{model}: its text_encoder has its weights as a pickle alone (pytorch_model.bin)" in (
        found
    )
    assert f"P.from_pretrained('{model}').save_pretrained('FOLDER')" in found
    assert "--allow_pickle" in found


def test_allowed_pickles_give_the_same_model(
    flags: Flags, model: Path, tiny_model: Path, tmp_path: Path
) -> None:
    pickled(model)
    notices: list[str] = []
    found = load_models(config(model, allow_pickle=True), notices.append)
    assert len(notices) == 3
    assert "unet: diffusion_pytorch_model.bin is a pickle: read as tensors alone" in notices
    assert digests(found) == digests(load_models(config(tiny_model)))
    # A run that began with the one goes on with the other.
    assert main(flags(max_train_steps=1)) == 0
    again = flags(pretrained_model_name_or_path=model, resume_from_checkpoint="latest")
    assert main([*again, "--allow_pickle", "--max_train_steps=2"]) == 0


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_an_allowed_pickle_runs_nothing(part: str, model: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    pickled(model)
    (path,) = (model / part).glob("*.bin")
    path.write_bytes(pickle.dumps({"weight": Malicious()}))
    assert f"its {part} cannot be loaded: " in complaint(model, allow_pickle=True)
    torch.save({"weight": Malicious()}, path)
    assert f"its {part} cannot be loaded: " in complaint(model, allow_pickle=True)
    assert not (tmp_path / "harm").exists()


# --- single files ---


@pytest.fixture
def file(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model in one file, in a house where Stable Diffusion 1.x is as small as it."""
    monkeypatch.setattr(single_file, "MADE_AS", tiny_model)
    return write_single_file(tiny_model, tmp_path / "tiny.safetensors")


def test_a_single_file_is_the_same_model(
    file: Path, tiny_model: Path, flags: Flags, tmp_path: Path
) -> None:
    tokenizer = str(tiny_model / "tokenizer")
    found = load_models(config(file, tokenizer_name=tokenizer))
    assert digests(found) == digests(load_models(config(tiny_model)))
    given = {"pretrained_model_name_or_path": file, "tokenizer_name": tokenizer}
    assert main([*flags(**given, max_train_steps=1), "--save_as_full_pipeline"]) == 0
    StableDiffusionPipeline.from_pretrained(tmp_path / "run")
    # What began with the file goes on with the folder.
    assert main(flags(resume_from_checkpoint="latest", max_train_steps=2)) == 0


def test_half_precision_is_read_as_float32(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
    save_file(half, tmp_path / "half.safetensors")
    found = load_models(
        config(tmp_path / "half.safetensors", tokenizer_name=str(tiny_model / "tokenizer"))
    )
    for part in (found.text_encoder, found.vae, found.unet):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def test_a_single_file_without_a_tokenizer_says_where_one_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = complaint(file)
    assert "has no tokenizer in it" in found
    assert "--tokenizer_name" in found
    assert f"P.from_single_file('{file}').save_pretrained('FOLDER')" in found


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickled_checkpoint_is_refused_unread(suffix: str, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / f"v1-5-pruned{suffix}"
    path.write_bytes(pickle.dumps(Malicious()))
    for allow in (False, True):
        found = complaint(path, allow_pickle=allow)
        assert f"{path}: may be a pickle" in found
        assert f"P.from_single_file('{path}')" in found
    assert not (tmp_path / "harm").exists()


def test_a_file_of_something_else(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"text")
    assert f"{path}: cannot be read as safetensors" in complaint(path)
    save_file({"<new>": torch.ones(1, 32)}, path)
    assert "is not a whole model of Stable Diffusion 1.x" in complaint(path)
    lacking = {k: v for k, v in load_file(file).items() if not k.startswith("first_stage")}
    save_file(lacking, path)
    assert "it has no weights under first_stage_model." in complaint(path)


@pytest.mark.parametrize(
    ("key", "shape", "what"),
    [
        ("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", (2,),
         "is a model of another family (xl_base)"),
        ("model.diffusion_model.input_blocks.0.0.weight", (4, 9, 3, 3),
         "is a model of another family (inpainting)"),
        ("model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (2, 1024),
         "is a model of Stable Diffusion 2.x, and the file does not tell which target"),
    ],
)  # fmt: skip
def test_a_file_of_another_family(
    key: str, shape: tuple[int, ...], what: str, file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({**load_file(file), key: torch.ones(shape)}, path)
    assert what in complaint(path)


def test_a_file_whose_weights_do_not_fit_is_named(
    file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    weights = load_file(file)
    del weights["model.diffusion_model.time_embed.0.weight"]
    save_file(weights, path)
    found = complaint(path, tokenizer_name=str(tiny_model / "tokenizer"))
    assert f"{path}: its unet cannot be loaded: " in found


def test_the_configs_of_stable_diffusion_1_are_whole() -> None:
    """By the number of weights that its papers and model cards give."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(single_file.MADE_AS / "unet")
        vae = AutoencoderKL.from_config(single_file.MADE_AS / "vae")
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(single_file.MADE_AS / "text_encoder"))
    counts = [sum(p.numel() for p in part.parameters()) for part in (unet, vae, text)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


# --- the resolution ---


@pytest.mark.parametrize(
    ("sample_size", "side"), [(8, 16), (64, 128), ([12, 8], 16), (9, 16), (None, 128)]
)
def test_the_resolution_is_what_the_unet_and_the_vae_are_made_for(
    sample_size: object, side: int, tiny_model: Path
) -> None:
    models = load_models(config(tiny_model))  # its VAE makes two pixels of a latent's
    models.unet.register_to_config(sample_size=sample_size)
    assert native_resolution(models) == side


def test_a_run_without_a_resolution_has_the_models_and_says_so(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"max_train_steps": 1, "resolution": None}
    argv = flags(**steps, scale_lr="true", train_batch_size=2, gradient_accumulation_steps=2)
    assert main(argv) == 0
    line = (
        "resolution 32, what the model was made for; global batch 4; learning rate 0.04 (0.01 x 4)"
    )
    assert line in capsys.readouterr().err.splitlines()
    recorded, _ = read_config(tmp_path / "run")
    assert recorded.resolution == 32
    assert main([*argv, "--resume_from_checkpoint=latest"]) == 0  # the same, given or not
    assert main([*argv, "--resolution=32", "--resume_from_checkpoint=latest"]) == 0
    assert "resolution 32; global batch 4;" in capsys.readouterr().err
