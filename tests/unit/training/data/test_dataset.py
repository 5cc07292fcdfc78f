"""Where a folder's pictures are, and how often each is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from training.data.dataset import epoch_length, find_pictures, one_pass, repeated
from training.data.draws import Draws
from training.errors import UserError


def put(pictures: Path, folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        shutil.copy(pictures / f"{number}.png", folder)


def quiet(text: str) -> None:
    del text


def test_kohyas_folders_say_how_often_each_picture_is_seen(pictures: Path, tmp_path: Path) -> None:
    put(pictures, tmp_path / "10_cat", 2)
    put(pictures, tmp_path / "15_my cat", 1)
    (tmp_path / "10_cat" / "0.txt").write_text("a cat")
    notices: list[str] = []
    found = find_pictures(tmp_path, False, notices.append)
    assert [picture.path.relative_to(tmp_path).as_posix() for picture in found] == [
        "10_cat/0.png", "10_cat/1.png", "15_my cat/0.png",
    ]  # fmt: skip
    assert notices == ["10_cat/0.txt is skipped: not a picture."]
    assert one_pass(found) == (0, 0, 1, 1, 2, 2, 2)
    assert epoch_length(found, repeats=100) == 35
    draws = Draws(3, 1, len(found), 1, 1000, (1, 1, 1), one_pass(found))
    for start in (0, 7):
        seen = sorted(draws(step, 0).picture for step in range(start, start + 7))
        assert seen == [0, 0, 1, 1, 2, 2, 2]
    assert [draw.picture for draw in draws.evaluation(6)] == [0, 1, 2, 0, 1, 2]


def test_one_of_kohyas_folders_alone_is_as_its_pictures_in_the_folder_itself(
    pictures: Path, tmp_path: Path
) -> None:
    """Also to a run that goes on: which pictures they are is all that is noted."""
    put(pictures, tmp_path / "10_cat", 3)
    found = find_pictures(tmp_path, False, quiet)
    assert one_pass(found) == (0, 1, 2)
    assert repeated(found) == []
    assert epoch_length(found, repeats=100) == 30
    flat = find_pictures(tmp_path / "10_cat", False, quiet)
    assert [picture.digest for picture in flat] == [picture.digest for picture in found]
    assert epoch_length(flat, repeats=100) == 300


def test_pictures_in_other_subfolders_are_named(pictures: Path, tmp_path: Path) -> None:
    put(pictures, tmp_path / "cats", 3)
    put(pictures, tmp_path / "dogs", 2)
    put(pictures, tmp_path / ".thumbnails", 1)
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match=r"in its subfolders: cats/ \(3\), dogs/ \(2\). Give one"):
        find_pictures(tmp_path, False, quiet)
    shutil.copy(pictures / "4.png", tmp_path)
    notices: list[str] = []
    assert len(find_pictures(tmp_path, False, notices.append)) == 1
    assert notices == ["skipped, with their pictures: cats/ (3), dogs/ (2)"]


def test_other_subfolders_beside_kohyas_are_named(pictures: Path, tmp_path: Path) -> None:
    put(pictures, tmp_path / "2_cat", 3)
    put(pictures, tmp_path / "0_off", 1)
    notices: list[str] = []
    assert len(find_pictures(tmp_path, False, notices.append)) == 3
    assert notices == ["skipped, with their pictures: 0_off/ (1)"]


def test_pictures_in_both_places_are_refused(pictures: Path, tmp_path: Path) -> None:
    put(pictures, tmp_path / "2_cat", 3)
    shutil.copy(pictures / "4.png", tmp_path)
    with pytest.raises(UserError, match="pictures both in it and in 2_cat/"):
        find_pictures(tmp_path, False, quiet)


def test_a_broken_picture_is_named_with_its_folder(pictures: Path, tmp_path: Path) -> None:
    put(pictures, tmp_path / "2_cat", 3)
    (tmp_path / "2_cat" / "notes.jpg").write_text("a toy")
    with pytest.raises(UserError, match=r"  - 2_cat/notes\.jpg: is not a picture, whatever"):
        find_pictures(tmp_path, False, quiet)
