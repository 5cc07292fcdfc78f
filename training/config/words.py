"""The new words of a run: how each is written, what its rows start from, and their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationInfo, field_validator

from training.config.groups import Group, key
from training.errors import UserError

EMBEDS_NAME = "learned_embeds"
EACH_FOLDER = "auto"
"""As a placeholder_token: each subfolder of the pictures' folder is a word, called like it."""


PLACEHOLDER_TOKEN = (
    "The new word, for example <dicoo>. Must not be a token yet. Several with commas between, "
    "<cat>,<house>: each is learned from the subfolder of its name, cat/ or 10_cat/; auto: from "
    "each subfolder one."
)


def a1111_name(token: str) -> str:
    """`<word>.safetensors`, of letters that every file system takes."""
    return f"{_file_name(token)}.safetensors"


def _file_name(token: str) -> str:
    return "".join(c for c in token.strip("<>") if c.isalnum() or c in "-_.") or "concept"


@dataclass(frozen=True)
class Concept:
    """One new word.

    Attributes:
        placeholder_token: as it is written in prompts.
        initializer_token, initial_embeds: what its rows start from; one of them is given.
        num_vectors: rows that it stands for.
        folder: the subfolder that its pictures are in; None: it is the run's only word, whose
            pictures are in the folder itself.
    """

    placeholder_token: str
    initializer_token: str | None = None
    initial_embeds: Path | None = None
    num_vectors: int = 1
    folder: str | None = None

    @property
    def placeholder_tokens(self) -> list[str]:
        """The tokens that the word stands for, one per vector."""
        more = [f"{self.placeholder_token}_{i}" for i in range(1, self.num_vectors)]
        return [self.placeholder_token, *more]

    @property
    def file_stem(self) -> str:
        """Of the files that hold its rows; of several words each has its own."""
        if self.folder is None:
            return EMBEDS_NAME
        return f"{EMBEDS_NAME}.{_file_name(self.placeholder_token)}"

    @property
    def own_files(self) -> tuple[str, ...]:
        """Patterns of the files that its rows are written to, those of steps second."""
        stem, token = self.file_stem, self.placeholder_token
        return (f"{stem}.*", f"{stem}-steps-*", a1111_name(token))


def words_in(text: str) -> list[str]:
    """The parts of a list with commas, as diffusers' scripts take several words."""
    return [part.strip() for part in text.split(",") if part.strip()]


def refuse_wrong_words(text: str) -> str:
    """A placeholder_token that can be one, or several with commas between; returns it.

    Raises:
        ValueError: says what is wrong with it.
    """
    if any(character.isspace() for word in words_in(text) for character in word):
        raise ValueError("must be one word, without spaces; several words with commas between")
    words = words_in(text)
    if not words:
        raise ValueError("must be a word")
    if any(len(re.findall("<[^<>]+>", word)) > 1 for word in words):
        raise ValueError("must be one word; several have commas between")
    for place, word in enumerate(words):
        if words.count(word) > 1:
            raise ValueError(f"{word} is there twice")
        for other in words[:place] + words[place + 1 :]:
            if word in other:
                raise ValueError(f"{word} is a part of {other}: prompts could not be read for sure")
        alike = [each for each in words[:place] if _file_name(each) == _file_name(word)]
        if alike:
            raise ValueError(f"{alike[0]} and {word} would have one file; write one another way")
    unnamed = [word for word in words if not subfolder_of(word)]
    if unnamed and len(words) > 1:
        raise ValueError(f"{unnamed[0]} names no subfolder")
    return ",".join(words)


class WordConfig(Group):
    """The new words: how they are written, and what their rows start from."""

    placeholder_token: str | None = key("concept", None, PLACEHOLDER_TOKEN, min_length=1)
    initializer_token: str | None = key(
        "concept",
        None,
        "A one-token word that says roughly what the concept is, or as many tokens as vectors; of "
        "several words one for all, or one each with commas between (default: their own names).",
    )
    initial_embeds: Path | None = key(
        "concept", None, "Start from an earlier learned_embeds file instead of a word."
    )
    num_vectors: int = key("concept", 1, "Embedding rows that each new word stands for.", ge=1)
    keep_embedding_norm: bool = key(
        "concept",
        False,
        "After each step, scale each row back to the length that it started with: it turns, "
        "and grows no stronger than other words in a prompt.",
    )

    @field_validator("placeholder_token")
    @classmethod
    def _words(cls, value: str | None) -> str | None:
        return None if value is None else refuse_wrong_words(value)

    @field_validator("initializer_token")
    @classmethod
    def _for_each_word(cls, value: str | None, info: ValidationInfo) -> str | None:
        words, starts = info.data.get("placeholder_token"), words_in(value or "")
        if words == EACH_FOLDER and len(starts) > 1:
            raise ValueError("must be one for all: the words are not named here")
        number = len(words_in(words or ""))
        if number > 1 and len(starts) not in (0, 1, number):
            raise ValueError(f"has {len(starts)} words for {number}: give one for all, or one each")
        return value

    @field_validator("initial_embeds")
    @classmethod
    def _of_one_word(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and are_several(info.data.get("placeholder_token")):
            raise ValueError("is for one word; several start from words (initializer_token)")
        return value

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Each new word.

        Raises:
            ValueError: the subfolders that they are called like are not known yet.
        """
        if self.placeholder_token == EACH_FOLDER:
            raise ValueError("the words are known once the subfolders have been read")
        names = words_in(self.placeholder_token or "")
        if len(names) == 1:
            start, embeds = self.initializer_token, self.initial_embeds
            return (Concept(names[0], start, embeds, self.num_vectors),)
        starts: list[str | None] = [*words_in(self.initializer_token or "")] or [None]
        if len(starts) == 1:
            starts *= len(names)
        return tuple(
            Concept(name, start or subfolder_of(name), None, self.num_vectors, subfolder_of(name))
            for name, start in zip(names, starts, strict=True)
        )


def subfolder_of(word: str) -> str:
    """The name of the subfolder that a word of several is learned from."""
    return word.strip("<>")


def are_several(words: str | None) -> bool:
    """Whether a placeholder_token stands for several words, or may do so."""
    return words == EACH_FOLDER or len(words_in(words or "")) > 1


def refuse_no_start(words: str, initializer: str | None, embeds: Path | None) -> None:
    """Make sure that one word alone has something to start from; several have their names.

    Raises:
        ValueError: says what to give.
    """
    if not are_several(words) and embeds is None and initializer is None:
        raise ValueError("give initializer_token (a word) or initial_embeds (a file)")


def words_of_folders(names: Sequence[str]) -> str:
    """The placeholder_token of words that are called like subfolders.

    Raises:
        UserError: there is one subfolder alone, or a name makes no word.
    """
    if len(names) == 1:
        raise UserError(
            f"placeholder_token {EACH_FOLDER}: there is one subfolder with pictures, {names[0]}/. "
            "For one word give that folder as train_data_dir, and the word."
        )
    try:
        words = refuse_wrong_words(",".join(f"<{name}>" for name in names))
        if [subfolder_of(word) for word in words_in(words)] != list(names):
            raise ValueError("has a comma or an angle bracket in it")
        return words
    except ValueError as error:
        raise UserError(
            f"placeholder_token {EACH_FOLDER}: {', '.join(names)}: {error}. Rename the folder."
        ) from error


def loading_lines(concepts: Sequence[Concept], repository: str) -> list[str]:
    """Lines of Python that load words from the hub into a `pipeline` of diffusers'."""
    names = [
        "" if concept.folder is None else f', weight_name="{concept.file_stem}.safetensors"'
        for concept in concepts
    ]
    return [f'pipeline.load_textual_inversion("{repository}"{name})' for name in names]


class LearnedEmbedsConfig(Group):
    """The form of the learned rows' files."""

    no_safe_serialization: bool = key(
        "outputs", False, "Write learned_embeds as .bin (pickle) instead of safetensors."
    )
    embeds_format: Literal["diffusers", "a1111"] = key(
        "outputs",
        "diffusers",
        "a1111: also write <word>.safetensors as A1111, ComfyUI and kohya read it.",
    )
