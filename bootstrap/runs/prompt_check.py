"""The word that a run teaches, and prompts that do not have it: told before a model is loaded."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

from bootstrap.errors import UserError

CONFIG = "config.toml"
IN_BRACKETS = re.compile(r"<[^<>\s]+>")


def placeholder_token_of(config: str) -> str | None:
    """The word in the text of a run's config.toml; None where it teaches none, or says nothing."""
    try:
        word = tomllib.loads(config).get("placeholder_token")
    except tomllib.TOMLDecodeError:
        return None
    return word if isinstance(word, str) and word else None


def require_placeholder_token(prompts: Sequence[str], word: str, run: str) -> None:
    """Make sure that every prompt has the run's word, as it is written.

    What else is in angle brackets may be a word of the model's: that is for the head to say.

    Raises:
        UserError: one has not; names what looks like a slip of it.
    """
    for prompt in prompts:
        if word in prompt:
            continue
        slips = IN_BRACKETS.findall(prompt) or [
            each for each in prompt.split() if each.lower() == word.strip("<>").lower()
        ]
        hint = f": {slips[0]} is not it" if slips else ""
        raise UserError(
            f"prompt {prompt!r}: lacks the word of {run}, which is written {word}{hint}."
            " Nothing was drawn."
        )
