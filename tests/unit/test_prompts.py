"""The sentences that a picture is paired with."""

from __future__ import annotations

import pytest

from training.prompts import TEMPLATES, expand_placeholder, prompts_for

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


def test_a_persons_prompt_gets_all_the_tokens() -> None:
    tokens = ["<new>", "<new>_1"]
    assert expand_placeholder("a <new> on <new>", tokens) == "a <new> <new>_1 on <new> <new>_1"
    assert expand_placeholder("a dog", tokens) == "a dog"
    assert expand_placeholder("a <new>", ["<new>"]) == "a <new>"
