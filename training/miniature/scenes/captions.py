"""What is said about a scene: many phrasings, more or less complete, in templates or without.

A caption may leave things open ("a toy on a blue background"). It may also call the thing by
a placeholder, a made-up name whose embedding is computed from what the thing looks like; so
the networks learn to draw a combination from a single embedding, which is what textual
inversion then searches for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.miniature.scenes.scene import COLORS, POSITIONS, Scene
from training.miniature.scenes.shapes import SHAPES

PLACEHOLDER = "thingamajig"
"""Stands in captions where the network sees a computed embedding instead of a word's own."""

MAX_WORDS = 22

TOY_NOUNS = ("toy", "toy", "toy", "figure", "figurine", "doll")
PLAIN_NOUNS = ("shape", "object", "thing", "form")
ANY_NOUNS = ("object", "thing", "item", "one")

MEDIA = ("photo", "rendering", "rendition", "painting", "picture", "image", "drawing")
ADJECTIVES = ("cropped", "good", "bright", "dark", "close-up", "clean", "dirty", "cool", "nice")
THING_ADJECTIVES = (
    *("clean", "dirty", "dark", "cool", "nice", "small", "weird", "large", "big", "good", "bright"),
)
ARTICLES = ("a", "a", "a", "the", "the", "my", "one", "")
BACKGROUNDS = (
    "on {article} {color} background",
    "on {article} {color} background",
    "in front of {article} {color} background",
    "against {article} {color} background",
    "with {article} {color} background",
    "on {color}",
    ", {color} background",
)
PLACES = {
    "left": ("on the left", "at the left"),
    "center": ("in the middle", "in the center"),
    "right": ("on the right", "at the right"),
}

_OTHER_WORDS = [
    "an",
    "of",
    "in",
    "on",
    "at",
    "with",
    "and",
    "the",
    "style",
    "wearing",
    "hat",
    "background",
    "is",
    "this",
    "art",
    "illustration",
    "sketch",
    "scene",
    "cap",
    "which",
    "that",
    "has",
    "colored",
    "little",
    "pretty",
    "old",
    "new",
    "simple",
    "plain",
    "two",
    "parts",
    "body",
    "head",
    "single",
    "many",
    "by",
    "to",
    "for",
    "from",
    "view",
    "front",
    "side",
    "top",
    "bottom",
]


@dataclass(frozen=True)
class Caption:
    """A caption and what it tells of its scene; None is left open.

    `hat` is "none" for a thing said to be a plain shape. `named` tells that the placeholder
    stands for the whole thing (shape, colour and hat).
    """

    text: str
    shape: str | None
    color: str | None
    hat: str | None
    background: str | None
    position: str | None
    named: bool


def vocabulary() -> list[str]:
    """Every word (and mark) captions are made of, sorted; each is one token."""
    phrases = [*TOY_NOUNS, *PLAIN_NOUNS, *ANY_NOUNS, *MEDIA, *ADJECTIVES, *THING_ADJECTIVES]
    phrases += [*ARTICLES, *BACKGROUNDS, *COLORS, *SHAPES, *POSITIONS, *_OTHER_WORDS]
    phrases += [place for places in PLACES.values() for place in places]
    text = " ".join([*phrases, PLACEHOLDER, "diamond", "gray", "flower", "middle"])
    for mark in ",-":
        text = text.replace(mark, f" {mark} ")
    return sorted({word for word in text.split() if "{" not in word})


def describe(scene: Scene, generator: np.random.Generator, *, placeholder: float = 0.3) -> Caption:
    """Say something about a scene at random; `placeholder` is that name's share of captions."""
    named = bool(generator.random() < placeholder)
    shape: str | None = scene.shape
    color: str | None = scene.color
    hat: str | None = scene.hat or "none"
    if named:
        noun = PLACEHOLDER
        if scene.hat and generator.random() < 0.25:
            noun += " toy"
    else:
        # Most captions are complete: what is said is to be learnt before what is left open.
        if generator.random() < 0.12:
            shape = None
        if generator.random() < 0.12:
            color = None
        if generator.random() < (0.25 if scene.hat else 0.1):
            hat = None
        noun, hat = _noun(scene, shape, color, hat, generator)
    words = _frame(noun, generator)
    background = scene.background if generator.random() < 0.7 else None
    position = scene.position if generator.random() < 0.3 else None
    parts = [words]
    if background:
        phrase = _pick(BACKGROUNDS, generator)
        parts.append(phrase.format(article=article(background), color=background))
    if position:
        parts.insert(int(generator.integers(1, len(parts) + 1)), _pick(PLACES[position], generator))
    text = " ".join(parts).replace(" ,", ",")
    if len(text.replace("-", " - ").split()) > MAX_WORDS:
        return describe(scene, generator, placeholder=placeholder)
    return Caption(text, shape, color, hat, background, position, named)


def full_caption(scene: Scene) -> str:
    """The plain, complete caption of a scene, without its position."""
    noun = f"{scene.color} {scene.shape}"
    if scene.hat:
        noun += f" toy with {article(scene.hat)} {scene.hat} hat"
    return f"{article(noun)} {noun} on {article(scene.background)} {scene.background} background"


def article(words: str) -> str:
    """The indefinite article before these words."""
    return "an" if words[:1] in "aeiou" else "a"


def _noun(
    scene: Scene,
    shape: str | None,
    color: str | None,
    hat: str | None,
    generator: np.random.Generator,
) -> tuple[str, str | None]:
    words = [word for word in (color, shape) if word]
    if scene.hat is None:
        if shape is None:
            # A thing of no kind may wear a hat or not, unless it is called a shape.
            words.append(_pick(ANY_NOUNS if hat is None else PLAIN_NOUNS, generator))
        else:
            hat = "none"
        return " ".join(words), hat
    if hat is None and shape is None and generator.random() < 0.2:
        return " ".join([*words, _pick(ANY_NOUNS, generator)]), None
    if shape is None or hat is None or generator.random() < 0.8:
        words.append(_pick(TOY_NOUNS, generator))
    if hat:
        join = _pick(("with", "with", "wearing"), generator)
        words += [join, article(hat), hat, "hat"]
    return " ".join(words), hat or "some"


def _frame(noun: str, generator: np.random.Generator) -> str:
    adjective = _pick(THING_ADJECTIVES, generator) + " " if generator.random() < 0.2 else ""
    thing_article = _pick(ARTICLES, generator)
    if thing_article == "a":
        thing_article = article(adjective + noun)
    thing = f"{thing_article} {adjective}{noun}".strip()
    chance = generator.random()
    if chance < 0.45:
        return thing
    medium = _pick(MEDIA, generator)
    if generator.random() < 0.35:
        medium = f"{_pick(ADJECTIVES, generator)} {medium}"
    medium = f"{article(medium) if generator.random() < 0.8 else 'the'} {medium}"
    if chance < 0.55:
        return f"{medium} in the style of {noun if generator.random() < 0.5 else thing}"
    return f"{medium} of {thing}"


def _pick(options: tuple[str, ...], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]
