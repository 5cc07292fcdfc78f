"""Several new words in one run, each learned from the subfolder of its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.captioned import short_lora
from tests.processes import KillAt, run_ranks
from tests.tiny_model import make_pictures
from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.textual_inversion import TextualInversionConfig
from training.data.inputs import read_inputs
from training.generate import main as generate
from training.methods.textual_inversion import TextualInversion
from training.textual_inversion import main

STEP, LORA = "training.loop.step:TrainingStep.__call__", "training.lora:main"
WORDS = ("<cat-1>", "<dog-1>")
FILES = tuple(f"learned_embeds.{word.strip('<>')}.safetensors" for word in WORDS)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two pictures of one word, three of another: 2 and, with repeats, 3 of them."""
    folder = tmp_path / "words"
    all_five = make_pictures(tmp_path / "five")
    for number, place in enumerate(["cat-1", "cat-1", "2_dog-1", "2_dog-1", "2_dog-1"]):
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(all_five / f"{number}.png", folder / place)
    return folder


@pytest.fixture
def several(flags: Flags, folders: Path, tmp_path: Path) -> Flags:
    """The command line of six steps into a folder of tmp_path."""

    def build(folder: str, **changes: object) -> list[str]:
        values = {
            "train_data_dir": folders,
            "placeholder_token": ",".join(WORDS),
            "initializer_token": "cat,dog",
            "num_vectors": 2,
            "output_dir": tmp_path / folder,
            **changes,
        }
        return flags(**values)

    return build


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return {word: load_file(folder / file)[word] for word, file in zip(WORDS, FILES, strict=True)}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[word], wanted[word]) for word in WORDS)


def test_each_picture_is_learned_with_the_word_of_its_folder(several: Flags) -> None:
    config, _ = parse(TextualInversionConfig, several("run"), "test", "")
    inputs = read_inputs(TextualInversion, config, lambda text: None)
    sentences = inputs.sentences
    assert sentences.of_picture is not None
    own = {
        picture.path.parent.name: set(sentences.texts[first : first + sentences.variants])
        for picture, first in zip(inputs.pictures, sentences.of_picture, strict=True)
    }
    assert list(own) == ["2_dog-1", "cat-1"]
    for folder, texts in own.items():
        word = f"<{folder.removeprefix('2_')}>"
        assert len(texts) == 27
        assert all(f"{word} {word}_1" in text for text in texts)
    table = inputs.models.text_encoder.get_input_embeddings().weight
    cat, dog = inputs.models.tokenizer.convert_tokens_to_ids(["cat</w>", "dog</w>"])
    assert torch.equal(inputs.method.start["rows"], table[[cat, cat, dog, dog]])


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_bit_identical(
    several: Flags, precision: str, ranks: int, tmp_path: Path
) -> None:
    whole = several("whole", mixed_precision=precision)
    assert {p.code for p in run_ranks(whole, tmp_path / "logs", ranks)} == {0}
    cut = several("cut", mixed_precision=precision)
    assert run_ranks(cut, tmp_path / "logs", ranks, KillAt(STEP, 4))[0].code < 0
    ended = run_ranks([*cut, "--resume_from_checkpoint=latest"], tmp_path / "logs", ranks)
    assert {p.code for p in ended} == {0}, ended[0].output
    assert "resuming from checkpoint-2" in ended[0].output
    assert_same(learned(tmp_path / "cut"), learned(tmp_path / "whole"))


def test_ranks_accumulation_and_batch_size_do_not_matter(several: Flags, tmp_path: Path) -> None:
    assert main(several("four", train_batch_size=4)) == 0
    assert main(several("one", gradient_accumulation_steps=4)) == 0
    two = several("two", train_batch_size=2)
    assert {p.code for p in run_ranks(two, tmp_path / "logs", 2)} == {0}
    wanted = learned(tmp_path / "four")
    for folder in ("one", "two"):
        found = learned(tmp_path / folder)
        for word in WORDS:
            assert float((found[word] - wanted[word]).norm() / wanted[word].norm()) < 1e-4


def test_each_word_has_its_file_and_diffusers_reads_them_all(
    several: Flags, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = several("run", embeds_format="a1111", save_as_full_pipeline="true",
                   validation_prompt="a <cat-1> and a <dog-1>", num_validation_images=1,
                   num_inference_steps=1)  # fmt: skip
    assert main(argv) == 0
    found = learned(run)
    assert not torch.equal(found[WORDS[0]], found[WORDS[1]])
    names = {path.name for path in run.iterdir() if path.name.startswith("learned_embeds")}
    steps = {f"{Path(file).stem}-steps-{step}.safetensors" for file in FILES for step in (2, 4, 6)}
    assert names == {*FILES, *steps}
    assert {"cat-1.safetensors", "dog-1.safetensors"} <= {path.name for path in run.iterdir()}
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.load_textual_inversion([str(run / file) for file in FILES])
    whole = StableDiffusionPipeline.from_pretrained(run, safety_checker=None)
    for each in (pipeline, whole):
        for word in WORDS:
            ids = each.tokenizer.convert_tokens_to_ids([word, f"{word}_1"])
            assert torch.equal(each.text_encoder.get_input_embeddings().weight[ids], found[word])
    pictures = []
    for prompt in ("a <cat-1>", "a <dog-1>", "a <dog-1> in the style of <cat-1>"):
        capsys.readouterr()
        assert generate([str(run), f"--prompt={prompt}", "--num_inference_steps=2"]) == 0
        out = capsys.readouterr()
        assert "is drawn without" not in out.err
        pictures.append(Path(json.loads(out.out)[0]).read_bytes())
    assert len(set(pictures)) == 3
    assert "<cat-1>, <dog-1>" in (run / "report.html").read_text().replace("&lt;", "<").replace(
        "&gt;", ">"
    )
    assert (run / "samples" / "comparison.png").is_file()


def test_auto_takes_each_subfolder_and_the_run_is_resumed_by_it(
    several: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {"placeholder_token": "auto", "initializer_token": "toy"}
    assert main(several("run", max_train_steps=2, **shown)) == 0
    record = (tmp_path / "run" / "config.toml").read_text()
    assert 'placeholder_token = "<dog-1>,<cat-1>"' in record
    assert set(learned(tmp_path / "run")) == set(WORDS)
    assert main(["--resume", str(tmp_path / "run"), "--max_train_steps=3"]) == 0
    again = several("run", **shown, resume_from_checkpoint="latest", max_train_steps=4)
    assert main(again) == 0
    assert "resuming from checkpoint-3" in capsys.readouterr().err


def test_a_word_without_a_start_of_its_own_starts_from_its_folders_name(
    several: Flags, folders: Path
) -> None:
    (folders / "cat-1").rename(folders / "painting")
    (folders / "2_dog-1").rename(folders / "2_rendering")
    changes = {"placeholder_token": "auto", "initializer_token": None, "num_vectors": 1}
    config, _ = parse(TextualInversionConfig, several("run", **changes), "test", "")
    inputs = read_inputs(TextualInversion, config, lambda text: None)
    table = inputs.models.text_encoder.get_input_embeddings().weight
    ids = inputs.models.tokenizer.convert_tokens_to_ids(["rendering</w>", "painting</w>"])
    assert torch.equal(inputs.method.start["rows"], table[ids])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"placeholder_token": "<cat-1>,<bird>"},
         "has no subfolder bird/ (with pictures it has: 2_dog-1/, cat-1/)"),
        ({"placeholder_token": "<cat-1>,<dog-1>,<cat-1>"}, "<cat-1> is there twice"),
        ({"placeholder_token": "<cat-1>,<>"}, "<> names no subfolder"),
        ({"placeholder_token": "cat-1,dog-1,dog-12"}, "dog-1 is a part of dog-12"),
        ({"placeholder_token": "<cat-1>,cat-1!"}, "would have one file"),
        ({"placeholder_token": "<cat 1>,<dog-1>"}, "must be one word, without spaces"),
        ({"initializer_token": "cat,dog,toy"},
         "initializer_token = 'cat,dog,toy': has 3 words for 2"),
        ({"initializer_token": "cat,zebra"}, "initializer_token 'zebra' is 5 tokens"),
        ({"initializer_token": None}, "initializer_token 'cat-1' is"),
        ({"initializer_token": None}, "the word's own name: give --initializer_token, one for all"),
        ({"placeholder_token": "<cat-1>;<dog-1>"}, "must be one word; several have commas between"),
        ({"initial_embeds": "rows.safetensors"}, "is for one word"),
        ({"placeholder_token": "auto"}, "initializer_token = 'cat,dog': must be one for all"),
        ({"num_vectors": 30}, "num_vectors 30: the longest sentence"),
        ({"num_vectors": "two"}, "num_vectors = 'two': input should be a valid integer"),
        ({"validation_prompt": "a <cat-2>"}, "<cat-2> is no word that this model knows"),
    ],
)  # fmt: skip
def test_what_is_refused(
    several: Flags,
    changes: dict[str, object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(several("run", **changes)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_pictures_beside_the_subfolders_are_refused_and_other_subfolders_named(
    several: Flags, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders / "cat-1", folders / "other")
    assert main(several("run", max_train_steps=1)) == 0
    assert "skipped, with their pictures: other/" in capsys.readouterr().err
    shutil.copy(folders / "cat-1" / "0.png", folders)
    assert main(several("second")) == 2
    assert "has pictures in it, but those of several words are each in" in capsys.readouterr().err


def test_a_picture_that_has_changed_its_word_is_another_run(
    several: Flags, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(several("run", max_train_steps=2)) == 0
    (folders / "cat-1" / "1.png").rename(folders / "2_dog-1" / "1.png")
    assert main(several("run", resume_from_checkpoint="latest")) == 2
    assert "not the same pictures as when the run started" in capsys.readouterr().err


def test_several_words_and_a_lora_in_one_run(
    tiny_model: Path, folders: Path, latents: Path, tmp_path: Path
) -> None:
    for picture in folders.glob("*/*.png"):
        word = f"<{picture.parent.name.removeprefix('2_')}>"
        picture.with_suffix(".txt").write_text(f"a red {word}")
    changes = {
        "train_text_encoder_ti": "true",
        "placeholder_token": ",".join(WORDS),
        "initializer_token": "toy",
        "num_vectors": 2,
        "max_train_steps_ti": 3,
    }
    argv = short_lora(tiny_model, folders, latents, tmp_path / "run", **changes)
    assert [each.code for each in run_ranks(argv, tmp_path / "logs", main=LORA)] == [0]
    found = learned(tmp_path / "run")
    assert not torch.equal(found[WORDS[0]], found[WORDS[1]])
    cut = short_lora(tiny_model, folders, latents, tmp_path / "cut", **changes)
    assert run_ranks(cut, tmp_path / "logs", 1, KillAt(STEP, 5), LORA)[0].code < 0
    (again,) = run_ranks([*cut, "--resume_from_checkpoint=latest"], tmp_path / "logs", 1, main=LORA)
    assert again.code == 0, again.output
    assert_same(learned(tmp_path / "cut"), found)
    adapters = "pytorch_lora_weights.safetensors"
    wanted = (tmp_path / "run" / adapters).read_bytes()
    assert (tmp_path / "cut" / adapters).read_bytes() == wanted


def test_a_folder_of_a_long_name_is_no_long_caption(
    several: Flags, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "-".join(["cat"] * 30)
    (folders / "cat-1").rename(folders / long)
    assert main(several("run", placeholder_token=f"<{long}>,<dog-1>", max_train_steps=1)) == 0
    assert "captions" not in capsys.readouterr().err
