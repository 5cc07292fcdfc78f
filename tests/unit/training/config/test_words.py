"""New words as flags say them: one, several with a folder each, and beside a LoRA."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from training.config.lora import LoraConfig
from training.config.textual_inversion import TextualInversionConfig
from training.config.words import Concept, words_of_folders
from training.errors import UserError

REQUIRED: dict[str, Any] = {"pretrained_model_name_or_path": "model", "train_data_dir": "pictures"}


def words(**values: Any) -> TextualInversionConfig:
    return TextualInversionConfig(**REQUIRED, **values)


def test_one_word_has_the_pictures_of_the_folder_itself() -> None:
    config = words(placeholder_token="<new>", initializer_token="a, b", num_vectors=3)
    assert config.concepts == (Concept("<new>", "a, b", None, 3),)
    assert config.subfolders is None
    assert config.concepts[0].file_stem == "learned_embeds"
    assert config.own_files == ("learned_embeds.*", "learned_embeds-steps-*", "new.safetensors")
    assert config.title == "<new>"


@pytest.mark.parametrize(
    ("initializer", "starts"),
    [("toy", ["toy", "toy"]), ("kitten, building", ["kitten", "building"]), (None, ["cat", "my"])],
)
def test_several_words_start_from_one_or_one_each_or_their_names(
    initializer: str | None, starts: list[str]
) -> None:
    config = words(placeholder_token="<cat>, my", initializer_token=initializer, num_vectors=2)
    assert config.placeholder_token == "<cat>,my"
    assert [concept.initializer_token for concept in config.concepts] == starts
    assert config.subfolders == ("cat", "my")
    assert config.placeholder_tokens == ["<cat>", "<cat>_1", "my", "my_1"]
    assert [concept.file_stem for concept in config.concepts] == [
        "learned_embeds.cat", "learned_embeds.my",
    ]  # fmt: skip
    assert config.summary == "Textual inversion of 4 embedding vectors"
    assert 'weight_name="learned_embeds.cat.safetensors"' in config.usage("me/words")


def test_words_named_by_subfolders_are_known_once_these_are() -> None:
    config = words(placeholder_token="auto", initializer_token="toy")
    assert config.subfolders == ()
    with pytest.raises(ValueError, match="once the subfolders have been read"):
        config.concepts  # noqa: B018
    known = config.with_subfolders(["cat", "house"])
    assert [concept.placeholder_token for concept in known.concepts] == ["<cat>", "<house>"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["my cat", "dog"], "must be one word, without spaces"),
        (["cat,dog", "bird"], "has a comma or an angle bracket in it"),
        (["<cat>", "bird"], "has a comma or an angle bracket in it"),
        (["cat"], "For one word give that folder as train_data_dir"),
        (["cat!", "cat"], "would have one file"),
    ],
)
def test_subfolders_whose_names_make_no_words_are_named(names: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        words_of_folders(names)
    assert said in str(raised.value)
    assert names[0] in str(raised.value)


def test_a_lora_without_words_has_none_of_their_files() -> None:
    config = LoraConfig(**REQUIRED)
    assert config.concepts == ()
    assert config.subfolders is None
    assert not any("learned_embeds" in name for name in config.own_files)
    assert config.usage("me/style") == (
        'pipeline.load_lora_weights("me/style")\npipeline("...").images[0]\n'
    )


def test_a_lora_with_a_word_has_both() -> None:
    config = LoraConfig(
        **REQUIRED, train_text_encoder_ti=True, placeholder_token="<new>", initializer_token="toy"
    )
    assert "learned_embeds.*" in config.own_files
    assert config.summary == "LoRA of rank 4 for the UNet, with <new>"
    assert 'pipeline.load_textual_inversion("me/style")' in config.usage("me/style")


@pytest.mark.parametrize("key", ["initializer_token", "initial_embeds"])
def test_a_start_without_a_word_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} toy is what a new word starts from"):
        LoraConfig.model_validate({**REQUIRED, key: "toy"})


def test_what_is_wrong_with_words_is_told_once() -> None:
    with pytest.raises(ValidationError) as raised:
        LoraConfig(**REQUIRED, train_text_encoder_ti=True, placeholder_token="two words")
    assert raised.value.error_count() == 1
