"""The sentences that a picture of the concept is paired with.

They are the templates of the textual inversion paper (Gal et al. 2022, appendix E; a part of
CLIP's ImageNet templates), the same set as diffusers' `textual_inversion.py` draws from.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
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


def check_prompt(
    prompt: str,
    tokenizer: Any,
    *words: Sequence[str],
    limit: float | None = None,
    wanted: bool = True,
) -> list[str]:
    """What a person should know of a prompt before it is drawn, a line each.

    Prompts go to diffusers' pipeline as they were typed: it replaces a word by all the tokens
    that it stands for, and cuts off what the text encoder does not take.

    Args:
        words: the tokens that each learned word stands for, the first of them as it is written.
        limit: how many tokens are drawn; None: the tokenizer's number.
        wanted: whether the prompt should have a learned word in it.

    Raises:
        UserError: a word would be drawn with a part of its rows, or not at all; or a word
            in angle brackets is none that these models know.
    """
    expanded = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    ids = tokenizer(expanded).input_ids
    for word in words:
        if any(token in prompt for token in word[1:]):
            raise UserError(
                f"prompt {prompt!r}: names a row of the new word by itself. Write {word[0]} alone: "
                f"it stands for all {len(word)} rows."
            )
    names = [word[0] for word in words]
    _refuse_unknown_words(prompt, tokenizer, names)
    lines = []
    vocabulary = tokenizer.get_vocab()
    known = {vocabulary[name] for name in names if name in vocabulary}
    if wanted and names and not known & set(ids):
        which = (
            f"the new word, which is written {names[0]}"
            if len(names) == 1
            else f"any of the learned words, which are written {', '.join(names)}"
        )
        lines.append(f"prompt {prompt!r}: is drawn without {which}.")
    limit = tokenizer.model_max_length if limit is None else limit
    if len(ids) > limit:
        cut = ids[int(limit) - 1 : -1]  # the last place is the end's
        for word in words:
            if set(cut) & set(tokenizer.convert_tokens_to_ids(list(word))):
                raise UserError(
                    f"prompt {prompt!r}: has {len(ids)} tokens, the model takes {limit}, and "
                    f"{word[0]} is beyond them: put it nearer to the beginning, or say less."
                )
        lines.append(
            f"prompt {prompt!r}: has {len(ids)} tokens, the model takes {limit}: "
            f"{tokenizer.decode(cut)!r} is cut off."
        )
    return lines


def _refuse_unknown_words(prompt: str, tokenizer: Any, words: Sequence[str]) -> None:
    """Make sure that what stands in angle brackets is a token: the rest is drawn as letters.

    Raises:
        UserError: names the nearest word that is known.
    """
    vocabulary = tokenizer.get_vocab()
    known = [*words, *(token for token in vocabulary if IN_BRACKETS.fullmatch(token))]
    rest = prompt
    for word in words:
        rest = rest.replace(word, " ")
    for found in IN_BRACKETS.findall(rest):
        if found in vocabulary or f"{found}</w>" in vocabulary:
            continue
        exact = [token for token in known if token.lower() == found.lower()]
        near = exact or difflib.get_close_matches(found, known, n=1, cutoff=0.6)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"the new word is written {words[0]}."
            if words
            else "give the file of the learned word (--embeds)."
        )
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
