"""The configuration of a textual inversion run: the new words, and the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from training.config.groups import key
from training.config.run import register
from training.config.word_run import WordRunConfig
from training.config.words import PLACEHOLDER_TOKEN, WordConfig, loading_lines, refuse_no_start


class ConceptConfig(WordConfig):
    """The new words: how they are written, and what their rows start from."""

    placeholder_token: str = key("concept", ..., PLACEHOLDER_TOKEN, min_length=1)
    learnable_property: Literal["object", "style"] = key(
        "concept", "object", "Whether the pictures share an object or a style."
    )

    @field_validator("initial_embeds")
    @classmethod
    def _a_start(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "placeholder_token" in info.data and "initializer_token" in info.data:
            refuse_no_start(info.data["placeholder_token"], info.data["initializer_token"], value)
        return value

    @property
    def placeholder_tokens(self) -> list[str]:
        """The tokens that the new words stand for, one per vector."""
        return [token for concept in self.concepts for token in concept.placeholder_tokens]


@register
# Of a field that several bases have, pydantic takes the first's: here the word is required.
class TextualInversionConfig(ConceptConfig, WordRunConfig):
    """Everything that decides what a run computes and what it writes."""

    method: ClassVar[str] = "textual_inversion"

    @property
    def concept(self) -> ConceptConfig:
        """The new words' keys."""
        return self.group(ConceptConfig)

    @property
    def title(self) -> str:
        """The new words."""
        return ", ".join(concept.placeholder_token for concept in self.concepts)

    @property
    def summary(self) -> str:
        """How many embedding vectors are trained."""
        number = len(self.placeholder_tokens)
        return f"Textual inversion of {number} embedding {'vector' if number == 1 else 'vectors'}"

    def usage(self, repository: str) -> str:
        """Loading the words, and a prompt with the first."""
        prompt = f"a photo of {self.concepts[0].placeholder_token}"
        lines = [*loading_lines(self.concepts, repository), f'pipeline("{prompt}").images[0]\n']
        return "\n".join(lines)

    @property
    def own_files(self) -> tuple[str, ...]:
        """What `training.methods.textual_inversion` writes into the run folder."""
        return tuple(name for concept in self.concepts for name in concept.own_files)


MAY_DIFFER_ON_RESUME = TextualInversionConfig.may_differ_on_resume
IDENTIFIED_BY_CONTENT = TextualInversionConfig.identified_by_content
