"""The caption of each training picture, or one message that names every one that is amiss."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers.loaders import TextualInversionLoaderMixin

from training.config.captions import METADATA, CaptionConfig
from training.data.dataset import Picture
from training.errors import UserError

SHOWN = 20
"""How many problems a message lists."""


def read_captions(
    folder: Path, config: CaptionConfig, pictures: list[Picture], notify: Callable[[str], None]
) -> list[str]:
    """The caption of each of `pictures`, in their order.

    From the folder's metadata.jsonl where there is one, else from the file beside each picture.
    Lines of a caption are joined by a comma and a space.

    Args:
        folder: the training folder, in which `pictures` are.
        notify: told of captions without a picture.

    Raises:
        UserError: names every picture without a caption (unless `caption_fallback` is given), every
            file that cannot be read, and every wrong line of metadata.jsonl.
    """
    metadata = folder / METADATA
    problems: list[str] = []
    if metadata.is_file():
        found = _from_metadata(metadata, config, pictures, problems, notify)
        where, elsewhere = METADATA, ""
    else:
        found = _from_files(folder, config, pictures, problems, notify)
        where = f"its {config.caption_extension} file"
        elsewhere = ", or --caption_extension where they are in files of another suffix"
    captions = []
    for picture in pictures:
        caption = found.get(picture.path)
        if not caption and config.caption_fallback is None:
            why = "has no caption" if caption is None else "has an empty caption"
            problems.append(f"{_name(folder, picture.path)}: {why} ({where}).")
        captions.append(caption or config.caption_fallback or "")
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems[:SHOWN])
        number = f"{len(problems)} caption{'s' if len(problems) > 1 else ''}"
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"train_data_dir {folder}: {number} cannot be used:\n{lines}{more}\n"
            f"  Mend them; or give --caption_fallback TEXT for pictures without one{elsewhere}."
        )
    return captions


def tell_of_long_captions(
    tokenizer: Any, captions: Sequence[str], notify: Callable[[str], None]
) -> None:
    """Say once how many captions are longer than the text encoder reads."""
    limit = tokenizer.model_max_length
    counts = {text: len(tokenizer(text).input_ids) for text in dict.fromkeys(captions)}
    longest = max(counts, key=counts.__getitem__, default="")
    number = sum(counts[text] > limit for text in captions)
    if number:
        notify(
            f"{number} of {len(captions)} captions have more tokens than the model reads "
            f"({limit}): what is beyond is not learned. The longest has {counts[longest]}: "
            f"{longest[:60]!r}"
        )


def captions_with_words(
    captions: Sequence[str],
    words: Sequence[Sequence[str]],
    tokenizer: Any,
    notify: Callable[[str], None],
) -> list[str]:
    """The captions, in which each new word is followed by the tokens of its further rows.

    Args:
        words: the tokens that each new word stands for; the tokenizer has them.
        notify: told how many captions have no new word in them.

    Raises:
        UserError: a word is in no caption, or beyond what the text encoder reads in all of them:
            it could not be learned.
    """
    mixin = TextualInversionLoaderMixin()
    texts = [mixin.maybe_convert_prompt(caption, tokenizer) for caption in captions]
    read = [set(ids) for ids in tokenizer(texts, truncation=True).input_ids]
    found = [[set(tokenizer.convert_tokens_to_ids(word)) <= ids for word in words] for ids in read]
    for word, inside in zip(words, zip(*found, strict=True), strict=True):
        if not any(inside):
            there = any(word[0] in caption for caption in captions)
            raise UserError(
                f"placeholder_token {word[0]}: no caption has it among the tokens that the model "
                f"reads ({tokenizer.model_max_length}), so that it cannot be learned. "
                + (_nearer(word) if there else _written(word))
            )
    if number := sum(not any(inside) for inside in found):
        notify(f"{number} of {len(captions)} captions have no new word in them.")
    return texts


def _written(word: Sequence[str]) -> str:
    return (
        "Write it into the captions; or, for pictures without one, give --caption_fallback "
        f'"a photo of {word[0]}".'
    )


def _nearer(word: Sequence[str]) -> str:
    fewer = f" It stands for {len(word)} tokens: fewer (--num_vectors) may fit."
    return f"Put it nearer to the beginning of captions.{fewer if len(word) > 1 else ''}"


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _from_files(
    folder: Path,
    config: CaptionConfig,
    pictures: list[Picture],
    problems: list[str],
    notify: Callable[[str], None],
) -> dict[Path, str]:
    """The captions of the files beside the pictures; "" for an empty one."""
    found = {}
    used = set()
    for picture in pictures:
        file = picture.path.with_suffix(config.caption_extension)
        used.add(file)
        if not file.is_file():
            continue
        text = _decoded(file, _name(folder, file), config.caption_encoding, problems)
        # What cannot be decoded is one problem, not a missing caption, too.
        found[picture.path] = "?" if text is None else joined(text)
    for place in sorted({picture.path.parent for picture in pictures}):
        for file in sorted(place.glob(f"*{config.caption_extension}")):
            if file not in used and file.name[0] != ".":
                notify(f"{_name(folder, file)} is skipped: a caption without a picture.")
    return found


def _decoded(file: Path, name: str, encoding: str, problems: list[str]) -> str | None:
    """The text of a file without its byte order mark; None, with a problem, where it has none."""
    try:
        data = file.read_bytes()
        return data.decode(encoding).removeprefix("\ufeff")
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror}).")
    except UnicodeDecodeError as error:
        byte, place = data[error.start], error.start + 1
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        problems.append(
            f"{name}: is not {encoding}: byte {place} is 0x{byte:02x}. Save it as UTF-8, or say "
            f"what it is, for example --caption_encoding {'utf-16' if wide else 'latin-1'}."
        )
    except UnicodeError as error:  # idna and punycode say no byte
        problems.append(f"{name}: is not {encoding} ({error}). Save it as UTF-8.")
    return None


def joined(text: str) -> str:
    """Every line that says something, joined by a comma and a space."""
    return ", ".join(line.strip() for line in text.splitlines() if line.strip())


def _from_metadata(
    metadata: Path,
    config: CaptionConfig,
    pictures: list[Picture],
    problems: list[str],
    notify: Callable[[str], None],
) -> dict[Path, str]:
    """The captions of metadata.jsonl's lines; "" for an empty one."""
    text = _decoded(metadata, METADATA, config.caption_encoding, problems)
    if text is None:  # one problem, not one for each picture, too
        return {picture.path: "?" for picture in pictures}
    used = {picture.path.resolve(): picture.path for picture in pictures}
    found = {}
    # By newlines alone: JSON may have other line separators inside its strings.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{METADATA}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: is not JSON ({error.msg} at column {error.colno}).")
            continue
        if not isinstance(entry, dict):
            problems.append(f"{where}: is not an object with keys.")
            continue
        name = entry.get(config.image_column)
        lacking = [
            f"{key} (--{flag})"
            for flag, key in (
                ("image_column", config.image_column),
                ("caption_column", config.caption_column),
            )
            if not isinstance(entry.get(key), str)
        ]
        if lacking:
            if isinstance(name, str):  # whose picture is no second problem
                found[metadata.parent / name] = "?"
            problems.append(
                f"{where}: has no text under {' and '.join(lacking)}; its keys are "
                f"{', '.join(entry) or 'none'}."
            )
            continue
        path = metadata.parent / str(name)
        if not os.path.isfile(path):  # whatever is no name of a file, too long a one included
            problems.append(f"{where}: there is no picture {name}.")
        elif path.resolve() in used:
            if used[path.resolve()] in found:
                notify(f"{where}: {name} has a line before; this one is taken.")
            found[used[path.resolve()]] = joined(entry[config.caption_column])
        else:
            notify(f"{where} is skipped: {name} is not learned from.")
    return found
