"""Where the captions of training pictures are read from."""

from __future__ import annotations

import codecs

from pydantic import field_validator

from training.config.groups import Group, key

METADATA = "metadata.jsonl"
"""A line of JSON for each picture, as Hugging Face's image folders have it."""

IDENTIFIED_AS_CAPTIONS = dict.fromkeys(
    ("caption_extension", "image_column", "caption_column", "caption_encoding", "caption_fallback"),
    "captions",
)
"""Keys that may differ when a run goes on, as long as the captions are the same."""


class CaptionConfig(Group):
    """How a picture's caption is found, and what takes its place where there is none."""

    caption_extension: str = key(
        "captions",
        ".txt",
        "Suffix of the file beside each picture that holds its caption, for example .caption; "
        "metadata.jsonl, where the folder has one, is read instead.",
    )
    image_column: str = key(
        "captions", "file_name", "Key of a picture's name in the lines of metadata.jsonl."
    )
    caption_column: str = key(
        "captions", "text", "Key of the caption in the lines of metadata.jsonl."
    )
    caption_encoding: str = key("captions", "utf-8", "Encoding of the caption files.")
    caption_fallback: str | None = key(
        "captions",
        None,
        "Caption of the pictures that have none; without it, such pictures are refused.",
    )
    proportion_empty_prompts: float = key(
        "captions",
        0.0,
        "Share of the samples that are learned without their caption, from 0 to 1.",
        ge=0,
        le=1,
    )

    @field_validator("caption_extension")
    @classmethod
    def _with_its_dot(cls, value: str) -> str:
        suffix = value.removeprefix(".")
        if not suffix or "/" in suffix:
            raise ValueError("must be a suffix, for example .caption")
        return f".{suffix}"

    @field_validator("caption_encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "".encode(value)  # raises for what is no encoding of text, as base64, too
            return codecs.lookup(value).name
        except (LookupError, UnicodeError) as error:
            raise ValueError("is no encoding that Python knows; utf-8 or latin-1?") from error

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of the names that files with captions have."""
        return (f"*{self.caption_extension}", METADATA)
