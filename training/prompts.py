"""The sentences that a picture of the concept is paired with.

They are the templates of the textual inversion paper (Gal et al. 2022, appendix E; a part of
CLIP's ImageNet templates), the same set as diffusers' `textual_inversion.py` draws from.
"""

from __future__ import annotations

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


def prompts_for(learnable_property: str, placeholder_tokens: list[str]) -> list[str]:
    """Every template of `learnable_property` ("object", "style") with the new word filled in."""
    word = " ".join(placeholder_tokens)
    return [template.format(word) for template in TEMPLATES[learnable_property]]


def expand_placeholder(prompt: str, placeholder_tokens: list[str]) -> str:
    """A person's prompt with the new word replaced by all the tokens that it stands for."""
    return prompt.replace(placeholder_tokens[0], " ".join(placeholder_tokens))
