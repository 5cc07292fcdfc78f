"""The sentences that a picture of the concept is paired with.

They are the templates of the textual inversion paper (Gal et al. 2022, appendix E; a part of
CLIP's ImageNet templates), the same set as diffusers' `textual_inversion.py` draws from.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from diffusers.loaders import TextualInversionLoaderMixin

from training.errors import UserError

_PHOTO_OF = (
    "a", "a clean", "a dirty", "my", "the cool", "the", "one", "the clean", "a nice",
    "the nice", "the small", "the weird", "the large", "a cool", "a small",
)  # fmt: skip
_STYLE = (
    "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting",
    "a dirty painting", "a dark painting", "a picture", "a cool painting", "a close-up painting",
    "a bright painting", "a cropped painting", "a good painting", "a close-up painting",
    "a rendition", "a nice painting", "a small painting", "a weird painting", "a large painting",
)  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        *(f"a photo of {which} {{}}" for which in _PHOTO_OF),
        *(f"a {how} photo of {which} {{}}"
          for how in ("cropped", "close-up", "good") for which in ("a", "the")),
        "the photo of a {}",
        "a dark photo of the {}",
        "a bright photo of the {}",
        "a rendering of a {}",
        "a rendition of a {}",
        "a rendition of the {}",
    ),
    "style": tuple(f"{what} in the style of {{}}" for what in _STYLE),
}  # fmt: skip


IN_BRACKETS = re.compile(r"<[^<>\s]+>")
"""How learned words are mostly written, and nothing else in a prompt."""


def prompts_for(learnable_property: str, placeholder_tokens: list[str]) -> list[str]:
    """Every template of `learnable_property` ("object", "style") with the new word filled in."""
    word = " ".join(placeholder_tokens)
    return [template.format(word) for template in TEMPLATES[learnable_property]]


def check_prompt(prompt: str, tokenizer: Any, placeholder_tokens: list[str]) -> list[str]:
    """What a person should know of a prompt before it is drawn, a line each.

    Prompts go to diffusers' pipeline as they were typed: it replaces the word by all the tokens
    that it stands for, and cuts off what the text encoder does not take.

    Raises:
        UserError: the word itself would be drawn with a part of its rows, or not at all; or a word
            in angle brackets is none that these models know.
    """
    word = placeholder_tokens[0]
    expanded = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    ids = tokenizer(expanded).input_ids
    rows = tokenizer.convert_tokens_to_ids(placeholder_tokens)
    if any(token in prompt for token in placeholder_tokens[1:]):
        raise UserError(
            f"prompt {prompt!r}: names a row of the new word by itself. Write {word} alone: it "
            f"stands for all {len(rows)} rows."
        )
    _refuse_unknown_words(prompt, tokenizer, word)
    lines = []
    if rows[0] not in ids:
        lines.append(f"prompt {prompt!r}: is drawn without the new word, which is written {word}.")
    limit = tokenizer.model_max_length
    if len(ids) > limit:
        cut = ids[limit - 1 : -1]  # the last place is the end's
        if set(cut) & set(rows):
            raise UserError(
                f"prompt {prompt!r}: has {len(ids)} tokens, the model takes {limit}, and {word} is "
                "beyond them: put it nearer to the beginning, or say less."
            )
        lines.append(
            f"prompt {prompt!r}: has {len(ids)} tokens, the model takes {limit}: "
            f"{tokenizer.decode(cut)!r} is cut off."
        )
    return lines


def _refuse_unknown_words(prompt: str, tokenizer: Any, word: str) -> None:
    """Make sure that what stands in angle brackets is a token: the rest is drawn as letters.

    Raises:
        UserError: names the nearest word that is known.
    """
    vocabulary = tokenizer.get_vocab()
    known = [word, *(token for token in vocabulary if IN_BRACKETS.fullmatch(token))]
    for found in IN_BRACKETS.findall(prompt.replace(word, " ")):
        if found in vocabulary or f"{found}</w>" in vocabulary:
            continue
        exact = [token for token in known if token.lower() == found.lower()]
        near = exact or difflib.get_close_matches(found, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"the new word is written {word}."
        raise UserError(f"prompt {prompt!r}: {found} is no word that this model knows; {hint}")


def refuse_too_many_vectors(
    learnable_property: str, tokenizer: Any, placeholder_tokens: list[str]
) -> None:
    """Make sure that the longest sentence has room for the word.

    Raises:
        UserError: says how many rows fit.
    """
    sentences = tokenizer(prompts_for(learnable_property, placeholder_tokens)).input_ids
    longest, limit = max(len(ids) for ids in sentences), tokenizer.model_max_length
    if longest > limit:
        fit = len(placeholder_tokens) - (longest - limit)
        raise UserError(
            f"num_vectors {len(placeholder_tokens)}: the longest sentence that the word is learned "
            f"in has {longest} tokens with it, and this model takes {limit}: "
            + (f"at most {fit} vectors fit." if fit > 0 else "not even one vector fits.")
        )
