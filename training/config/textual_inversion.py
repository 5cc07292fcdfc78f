"""The configuration of a textual inversion run: the new word, and the files that hold it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from training.config.groups import Group, key
from training.config.run import RunConfig, register

EMBEDS_NAME = "learned_embeds"


def a1111_name(token: str) -> str:
    """`<word>.safetensors`, of letters that every file system takes."""
    word = "".join(c for c in token.strip("<>") if c.isalnum() or c in "-_.") or "concept"
    return f"{word}.safetensors"


class ConceptConfig(Group):
    """The new word: how it is written, and what its rows start from."""

    placeholder_token: str = key(
        "concept", ..., "The new word, for example <dicoo>. Must not be a token yet.", min_length=1
    )
    initializer_token: str | None = key(
        "concept",
        None,
        "A one-token word that says roughly what the concept is, or as many tokens as vectors.",
    )
    initial_embeds: Path | None = key(
        "concept", None, "Start from an earlier learned_embeds file instead of a word."
    )
    num_vectors: int = key("concept", 1, "Embedding rows that the new word stands for.", ge=1)
    learnable_property: Literal["object", "style"] = key(
        "concept", "object", "Whether the pictures share an object or a style."
    )

    @field_validator("placeholder_token")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if any(character.isspace() for character in value):
            raise ValueError("must be one word, without spaces")
        return value

    @field_validator("initial_embeds")
    @classmethod
    def _a_start(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("initializer_token", "") is None:
            raise ValueError("give initializer_token (a word) or initial_embeds (a file)")
        return value

    @property
    def placeholder_tokens(self) -> list[str]:
        """The tokens that the new word stands for, one per vector."""
        more = [f"{self.placeholder_token}_{i}" for i in range(1, self.num_vectors)]
        return [self.placeholder_token, *more]


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


@register
class TextualInversionConfig(LearnedEmbedsConfig, RunConfig, ConceptConfig):
    """Everything that decides what a run computes and what it writes."""

    method: ClassVar[str] = "textual_inversion"
    may_differ_on_resume: ClassVar[frozenset[str]] = RunConfig.may_differ_on_resume | {
        "no_safe_serialization",
        "embeds_format",
    }
    identified_by_content: ClassVar[dict[str, str]] = {
        **RunConfig.identified_by_content,
        "initializer_token": "rows",
        "initial_embeds": "rows",
    }

    @property
    def concept(self) -> ConceptConfig:
        """The new word's keys."""
        return self.group(ConceptConfig)

    @property
    def embeds(self) -> LearnedEmbedsConfig:
        """The keys of the learned_embeds files' form."""
        return self.group(LearnedEmbedsConfig)

    @property
    def title(self) -> str:
        """The new word."""
        return self.placeholder_token

    @property
    def summary(self) -> str:
        """How many embedding vectors are trained."""
        vectors = "vector" if self.num_vectors == 1 else "vectors"
        return f"Textual inversion of {self.num_vectors} embedding {vectors}"

    def usage(self, repository: str) -> str:
        """Loading the word, and a prompt with it."""
        return (
            f'pipeline.load_textual_inversion("{repository}")\n'
            f'pipeline("a photo of {self.placeholder_token}").images[0]\n'
        )

    @property
    def own_files(self) -> tuple[str, ...]:
        """What `training.methods.textual_inversion` writes into the run folder."""
        return ("learned_embeds.*", "learned_embeds-steps-*", a1111_name(self.placeholder_token))


MAY_DIFFER_ON_RESUME = TextualInversionConfig.may_differ_on_resume
IDENTIFIED_BY_CONTENT = TextualInversionConfig.identified_by_content
