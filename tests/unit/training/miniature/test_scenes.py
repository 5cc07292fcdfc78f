"""The scenes, captions and vocabulary the miniature model is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from training.miniature.concept import SETTINGS, concept_scenes
from training.miniature.networks.tokenizer import MAX_LENGTH, new_tokenizer
from training.miniature.scenes.captions import (
    MAX_WORDS,
    PLACEHOLDER,
    describe,
    full_caption,
    vocabulary,
)
from training.miniature.scenes.scene import COLORS, TOY_SHAPES, Scene, render, sample_scenes
from training.miniature.scenes.shapes import SHAPES

LOOKS = [(shape, None) for shape in SHAPES] + [(shape, "orange") for shape in TOY_SHAPES]


@pytest.mark.parametrize(("shape", "hat"), LOOKS)
def test_a_scene_shows_each_of_its_colors(shape: str, hat: str | None) -> None:
    scene = Scene(shape, "teal", "white", hat, y=0.6 if hat else 0.5)
    picture = render(scene)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    for color, least in (("teal", 0.05), ("white", 0.3), ("orange", 0.03 if hat else 0.0)):
        part = (picture == np.array(COLORS[color])).all(axis=2).mean()
        assert part > least or (part == least == 0.0)


def test_a_picture_has_the_size_asked() -> None:
    assert render(concept_scenes()[0], 256).shape == (256, 256, 3)


def test_the_same_seed_gives_the_same_scenes() -> None:
    assert sample_scenes(50, 3) == sample_scenes(50, 3) != sample_scenes(50, 4)


def test_colors_of_a_scene_differ() -> None:
    for scene in sample_scenes(2000, 5):
        used = [scene.color, scene.background, *([scene.hat] if scene.hat else [])]
        assert len(set(used)) == len(used)


def test_the_concept_is_never_sampled_for_training() -> None:
    assert not any(scene.is_concept for scene in sample_scenes(100_000, 6))
    assert any(scene.is_concept for scene in sample_scenes(20_000, 6, with_concept=True))


def test_the_concept_pictures_show_the_concept_on_different_backgrounds() -> None:
    scenes = concept_scenes()
    assert all(scene.is_concept for scene in scenes)
    assert len({scene.background for scene in scenes}) == len(SETTINGS) == 5


def test_captions_tell_the_truth_in_known_words() -> None:
    generator, known = np.random.default_rng(0), set(vocabulary())
    for scene in sample_scenes(2000, 7):
        caption = describe(scene, generator)
        words = caption.text.replace(",", " , ").replace("-", " - ").split()
        assert set(words) <= known
        assert len(words) <= MAX_WORDS
        assert caption.named == (PLACEHOLDER in words)
        assert caption.shape in (None, scene.shape)
        assert caption.color in (None, scene.color)
        if not caption.named:
            colors = set(words) & set(COLORS)
            assert colors <= {scene.color, scene.background, scene.hat}
            assert set(words) & set(SHAPES) <= {scene.shape}


def test_a_third_of_captions_are_named_by_the_placeholder() -> None:
    generator = np.random.default_rng(1)
    named = [describe(scene, generator).named for scene in sample_scenes(2000, 8)]
    assert 0.25 < np.mean(named) < 0.4


def test_the_full_caption_names_all_parts() -> None:
    toy = Scene("heart", "purple", "white", "orange")
    assert full_caption(toy) == "a purple heart toy with an orange hat on a white background"


def test_every_word_is_one_token_and_others_fall_apart() -> None:
    words = vocabulary()
    tokenizer = new_tokenizer(words)
    assert tokenizer.model_max_length == MAX_LENGTH
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)
    assert len(tokenizer("xylophone").input_ids) > 3
    assert len(set(tokenizer.get_vocab().values())) == len(tokenizer)


@pytest.mark.parametrize(
    "word",
    [
        "photo",
        "rendering",
        "cropped",
        "close",
        "clean",
        "dirty",
        "dark",
        "cool",
        "good",
        "bright",
        "rendition",
        "nice",
        "small",
        "weird",
        "large",
        "painting",
        "style",
        "picture",
        "my",
        "one",
        "toy",
        "object",
        "thing",
        "shape",
        "figure",
    ],
)
def test_words_of_the_usual_templates_are_known(word: str) -> None:
    assert word in vocabulary()
