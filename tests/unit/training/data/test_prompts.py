"""The sentences that a picture is paired with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken

from tests.tiny_model import MAX_LENGTH, make_tokenizer
from training.data.prompts import TEMPLATES, check_prompt, prompts_for, refuse_too_many_vectors
from training.errors import UserError

OBJECT = """\
a photo of a {}
a rendering of a {}
a cropped photo of the {}
the photo of a {}
a photo of a clean {}
a photo of a dirty {}
a dark photo of the {}
a photo of my {}
a photo of the cool {}
a close-up photo of a {}
a bright photo of the {}
a cropped photo of a {}
a photo of the {}
a good photo of the {}
a photo of one {}
a close-up photo of the {}
a rendition of the {}
a photo of the clean {}
a rendition of a {}
a photo of a nice {}
a good photo of a {}
a photo of the nice {}
a photo of the small {}
a photo of the weird {}
a photo of the large {}
a photo of a cool {}
a photo of a small {}"""
"""As in diffusers' textual_inversion.py."""


def test_object_templates_are_the_27_of_diffusers() -> None:
    assert len(TEMPLATES["object"]) == 27
    assert sorted(TEMPLATES["object"]) == sorted(OBJECT.splitlines())


def test_style_templates_are_19() -> None:
    assert len(TEMPLATES["style"]) == 19
    assert all(template.endswith(" in the style of {}") for template in TEMPLATES["style"])
    assert TEMPLATES["style"].count("a close-up painting in the style of {}") == 2
    assert TEMPLATES["style"].count("a cropped painting in the style of {}") == 2
    assert len(set(TEMPLATES["style"])) == 17


@pytest.mark.parametrize("kind", ["object", "style"])
def test_the_word_is_in_every_sentence_once(kind: str) -> None:
    prompts = prompts_for(kind, ["<new>"])
    assert len(prompts) == len(TEMPLATES[kind])
    assert all(prompt.count("<new>") == 1 and "{" not in prompt for prompt in prompts)


def test_several_vectors_stand_side_by_side() -> None:
    prompts = prompts_for("object", ["<new>", "<new>_1", "<new>_2"])
    assert "a photo of my <new> <new>_1 <new>_2" in prompts


def test_a_word_with_braces_is_taken_as_it_is() -> None:
    assert "a photo of my {0}" in prompts_for("object", ["{0}"])


def tokenizer_with(words: list[str], folder: Path) -> Any:
    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


@pytest.mark.parametrize(
    "prompt", ["a <new> on <new>", "<new>", "a photo of <new>, red", "<new> < 3 > 2"]
)
def test_nothing_is_said_of_a_prompt_that_fits(prompt: str, tmp_path: Path) -> None:
    words = ["<new>", "<new>_1", "<new>_2"]
    assert check_prompt(prompt, tokenizer_with(words, tmp_path), words) == []


def test_what_is_cut_off_is_said(tmp_path: Path) -> None:
    words = ["<new>"]
    prompt = "a <new> " + "red " * (MAX_LENGTH - 4) + "cat dog toy"
    (line,) = check_prompt(prompt, tokenizer_with(words, tmp_path), words)
    assert f"has {MAX_LENGTH + 3} tokens, the model takes {MAX_LENGTH}: 'cat dog toy' is" in line


@pytest.mark.parametrize("before", [MAX_LENGTH - 2, MAX_LENGTH - 3, MAX_LENGTH - 4])
def test_a_prompt_whose_word_is_cut_off_is_refused(before: int, tmp_path: Path) -> None:
    """With one, two or all three of its rows beyond what the model takes."""
    words = ["<new>", "<new>_1", "<new>_2"]
    with pytest.raises(UserError, match="<new> is beyond them"):
        check_prompt("red " * before + "<new>", tokenizer_with(words, tmp_path), words)
    fits = "red " * (MAX_LENGTH - 5) + "<new>"
    assert check_prompt(fits, tokenizer_with(words, tmp_path), words) == []


@pytest.mark.parametrize("prompt", ["a <new> <new>_1", "a <new>_1"])
def test_a_row_by_itself_is_refused(prompt: str, tmp_path: Path) -> None:
    words = ["<new>", "<new>_1"]
    with pytest.raises(UserError, match="Write <new> alone: it stands for all 2 rows"):
        check_prompt(prompt, tokenizer_with(words, tmp_path), words)


@pytest.mark.parametrize("prompt", ["a dog", "a New"])
def test_a_prompt_without_the_word_is_told_which_word_it_lacks(prompt: str, tmp_path: Path) -> None:
    words = ["<New>"]
    (line,) = check_prompt(prompt, tokenizer_with(words, tmp_path), words)
    assert "is drawn without the new word, which is written <New>" in line


def test_a_word_without_brackets_in_other_letters_is_told(tmp_path: Path) -> None:
    words = ["Zork"]
    (line,) = check_prompt("a zork", tokenizer_with(words, tmp_path), words)
    assert "is drawn without the new word, which is written Zork" in line


@pytest.mark.parametrize(
    ("prompt", "found", "hint"),
    [
        ("a <budy>", "<budy>", "did you mean <buddy>?"),
        ("a <buddy> and a <hatt>", "<hatt>", "did you mean <hat>?"),
        ("a <BUDDY>", "<BUDDY>", "did you mean <buddy>?"),
        ("a <lora:x:1>", "<lora:x:1>", "the new word is written <buddy>."),
    ],
)
def test_an_unknown_word_in_brackets_is_refused_with_the_nearest(
    prompt: str, found: str, hint: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(["<hat>", "<buddy>"], tmp_path)
    check_prompt("a <buddy> with a <hat>", tokenizer, ["<buddy>"])  # the model may know others
    with pytest.raises(UserError) as raised:
        check_prompt(prompt, tokenizer, ["<buddy>"])
    assert f"{found} is no word that this model knows; {hint}" in str(raised.value)


@pytest.mark.parametrize("kind", ["object", "style"])
def test_as_many_vectors_as_fit_are_taken_and_no_more(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(words := ["<new>", *(f"<new>_{i}" for i in range(1, 30))], tmp_path)
    longest = max(len(ids) for ids in tokenizer(prompts_for(kind, ["<new>"])).input_ids)
    fit = MAX_LENGTH - longest + 1
    refuse_too_many_vectors(kind, tokenizer, words[:fit])
    with pytest.raises(UserError, match=f"num_vectors {fit + 1}: .* at most {fit} vectors fit"):
        refuse_too_many_vectors(kind, tokenizer, words[: fit + 1])
