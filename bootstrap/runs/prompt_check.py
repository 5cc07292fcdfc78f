"""The words that a run teaches, and prompts that have none: told before a model is loaded."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

from bootstrap.errors import UserError
from bootstrap.node.job import LORA

CONFIG = "config.toml"
IN_BRACKETS = re.compile(r"<[^<>\s]+>")


def placeholder_token_of(config: str) -> str | None:
    """The word in the text of a run's config.toml, or several with commas between.

    None where it teaches none, or says nothing; and of a LoRA, which draws without its word, too.
    """
    try:
        values = tomllib.loads(config)
    except tomllib.TOMLDecodeError:
        return None
    run, word = values.get("run"), values.get("placeholder_token")
    if isinstance(run, dict) and run.get("method") == LORA:
        return None
    return word if isinstance(word, str) and word else None


def words_in(text: str) -> list[str]:
    """The words of a placeholder_token."""
    return [word.strip() for word in text.split(",") if word.strip()]


def require_placeholder_token(prompts: Sequence[str], word: str, run: str) -> None:
    """Make sure that every prompt has the run's word, or one of its words, as it is written.

    What else is in angle brackets may be a word of the model's: that is for the head to say.

    Raises:
        UserError: one has not; names what looks like a slip of it.
    """
    words = words_in(word)
    plain = {each.strip("<>").lower() for each in words}
    for prompt in prompts:
        if any(each in prompt for each in words):
            continue
        slips = IN_BRACKETS.findall(prompt) or [
            each for each in prompt.split() if each.lower() in plain
        ]
        hint = f": {slips[0]} is not it" if slips else ""
        raise UserError(
            f"prompt {prompt!r}: lacks the word of {run}, which is written "
            f"{' or '.join(words)}{hint}."
            " Nothing was drawn."
        )
