"""Captions as people have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_model import make_pictures, make_tokenizer
from training.config.captions import CaptionConfig
from training.data.captions import joined, read_captions, tell_of_long_captions
from training.data.dataset import find_pictures
from training.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures", 2)


def read(folder: Path, **config: object) -> tuple[list[str], list[str]]:
    """The captions, and what the person was told."""
    told: list[str] = []
    captions = CaptionConfig.model_validate(config)
    pictures = find_pictures(folder, False, told.append, captions.files)
    return read_captions(folder, captions, pictures, told.append), told


def metadata(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def test_a_byte_order_mark_other_line_ends_and_several_lines(folder: Path) -> None:
    (folder / "0.txt").write_bytes("\ufeffa red cat\r\n\r\n in the snow \r\n".encode())
    (folder / "1.txt").write_bytes("un caf\u00e9".encode())
    assert read(folder) == (["a red cat, in the snow", "un caf\u00e9"], [])


def test_lines_are_joined() -> None:
    assert joined("one\ntwo\n\nthree\n") == "one, two, three"


def test_latin_1_is_named_with_its_byte_and_read_when_said(folder: Path) -> None:
    (folder / "0.txt").write_bytes(b"caf\xe9")
    (folder / "1.txt").write_text("a dog")
    with pytest.raises(UserError) as refused:
        read(folder)
    assert "0.txt: is not utf-8: byte 4 is 0xe9" in str(refused.value)
    assert "--caption_encoding latin-1" in str(refused.value)
    assert "has no caption" not in str(refused.value)
    assert read(folder, caption_encoding="latin-1")[0] == ["caf\u00e9", "a dog"]
    (folder / "0.txt").write_bytes("a cat".encode("utf-16"))
    with pytest.raises(UserError, match=r"1 caption cannot be used:\n.*--caption_encoding utf-16"):
        read(folder)
    (folder / "1.txt").write_bytes("a dog".encode("utf-16"))
    assert read(folder, caption_encoding="utf-16")[0] == ["a cat", "a dog"]
    with pytest.raises(UserError, match=r"0\.txt: is not idna"):
        read(folder, caption_encoding="idna")


def test_every_picture_without_a_caption_is_named(folder: Path) -> None:
    (folder / "1.txt").write_text("  \n")
    with pytest.raises(UserError) as refused:
        read(folder)
    assert "0.png: has no caption (its .txt file)" in str(refused.value)
    assert "1.png: has an empty caption" in str(refused.value)
    assert "--caption_fallback" in str(refused.value)
    assert read(folder, caption_fallback="a toy")[0] == ["a toy", "a toy"]
    assert read(folder, caption_fallback="")[0] == ["", ""]


def test_a_caption_without_a_picture_is_told(folder: Path) -> None:
    for name in ("0", "1", "7"):
        (folder / f"{name}.caption").write_text("a cat")
    captions, told = read(folder, caption_extension="caption")
    assert captions == ["a cat", "a cat"]
    assert told == ["7.caption is skipped: a caption without a picture."]


def test_metadata_is_read_instead_of_files(folder: Path) -> None:
    (folder / "0.txt").write_text("not this")
    metadata(folder, {"file_name": "1.png", "text": "a dog"}, "",
             {"file_name": "0.png", "text": "a cat\nasleep"})  # fmt: skip
    assert read(folder) == (["a cat, asleep", "a dog"], [])


def test_metadata_with_keys_of_its_own(folder: Path) -> None:
    metadata(folder, *({"image": f"{n}.png", "prompt": f"cat {n}"} for n in (0, 1)))
    assert read(folder, image_column="image", caption_column="prompt")[0] == ["cat 0", "cat 1"]
    with pytest.raises(UserError) as refused:
        read(folder)
    assert (
        "metadata.jsonl, line 1: has no text under file_name (--image_column) and text "
        "(--caption_column); its keys are image, prompt." in str(refused.value)
    )


def test_every_wrong_line_of_metadata_is_named(folder: Path) -> None:
    long = "a" * 300
    metadata(folder, "{", '["0.png"]', {"file_name": "9.png", "text": "a cat"},
             {"file_name": long, "text": "a cat"}, {"file_name": "\0", "text": "a cat"}, {},
             {"file_name": "1.png", "text": ["a cat"]})  # fmt: skip
    with pytest.raises(UserError) as refused:
        read(folder)
    said = str(refused.value)
    assert "line 1: is not JSON" in said
    assert "line 2: is not an object with keys" in said
    assert "line 3: there is no picture 9.png" in said
    assert f"line 4: there is no picture {long}" in said
    assert "line 5: there is no picture" in said
    assert "line 6: has no text under file_name" in said
    assert "its keys are none." in said
    assert "line 7: has no text under text (--caption_column)" in said
    assert "0.png: has no caption (metadata.jsonl)" in said
    assert "1.png" not in said
    assert "--caption_extension" not in said


def test_metadata_that_is_not_utf_8_is_one_problem(folder: Path) -> None:
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "0.png", "text": "caf\xe9"}')
    with pytest.raises(UserError, match=r"1 caption cannot be used:\n  - metadata\.jsonl: is not"):
        read(folder)


def test_of_two_lines_for_a_picture_the_last_is_taken_and_told(folder: Path) -> None:
    metadata(folder, *({"file_name": f"{n}.png", "text": "a cat"} for n in (0, 1)),
             {"file_name": "0.png", "text": "a dog"})  # fmt: skip
    told = "metadata.jsonl, line 3: 0.png has a line before; this one is taken."
    assert read(folder) == (["a dog", "a cat"], [told])


def test_captions_in_subfolders_with_repeats(folder: Path) -> None:
    inside = folder / "3_cat"
    inside.mkdir()
    for number in (0, 1):
        shutil.move(folder / f"{number}.png", inside / f"{number}.png")
        (inside / f"{number}.txt").write_text(f"cat {number}")
    assert read(folder)[0] == ["cat 0", "cat 1"]


def test_long_captions_are_counted_and_said_once(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    told: list[str] = []
    long = " ".join(["cat"] * 30)
    tell_of_long_captions(tokenizer, [long, "a cat", long], told.append)
    assert len(told) == 1
    assert told[0].startswith("2 of 3 captions have more tokens than the model reads (24)")
    assert "has 32" in told[0]
    tell_of_long_captions(tokenizer, ["a cat"], told.append)
    assert len(told) == 1


@pytest.mark.parametrize("extension", ["", ".", " . ", "captions/txt"])
def test_what_is_no_suffix_is_refused(extension: str) -> None:
    with pytest.raises(ValueError, match=r"must be a suffix, for example \.caption"):
        CaptionConfig(caption_extension=extension)


@pytest.mark.parametrize("name", ["utf8x", "klingon", "base64", "undefined"])
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no encoding that Python knows"):
        CaptionConfig(caption_encoding=name)
