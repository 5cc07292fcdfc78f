"""What the configurations of methods that learn new words share."""

from __future__ import annotations

from typing import ClassVar, Self

from training.config.run import RunConfig
from training.config.words import (
    EACH_FOLDER,
    LearnedEmbedsConfig,
    WordConfig,
    subfolder_of,
    words_in,
    words_of_folders,
)


class WordRunConfig(LearnedEmbedsConfig, RunConfig, WordConfig):
    """A run that learns new words, or may learn them beside something else."""

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
    def embeds(self) -> LearnedEmbedsConfig:
        """The keys of the learned_embeds files' form."""
        return self.group(LearnedEmbedsConfig)

    @property
    def subfolders(self) -> tuple[str, ...] | None:
        """The subfolders that the pictures of several words are in; (): all; None: of one word."""
        if self.placeholder_token == EACH_FOLDER:
            return ()
        names = words_in(self.placeholder_token or "")
        return tuple(map(subfolder_of, names)) if len(names) > 1 else None

    def with_subfolders(self, names: list[str]) -> Self:
        """The words named, where they are called like the subfolders."""
        return self.model_copy(update={"placeholder_token": words_of_folders(names)})
