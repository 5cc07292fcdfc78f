"""`--dataset_name`: a dataset of pictures on the hub, as a folder here."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from training.config.captions import METADATA
from training.errors import UserError, first_line

NAME = "dataset_name"
PICTURES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif",
            ".heic", ".heif", ".jp2")  # fmt: skip
BESIDE = (".txt", ".caption", ".jsonl")
TRAIN = "train"
WRITE_OUT = """\
python -c "import json, pathlib, datasets
folder = pathlib.Path('pictures'); folder.mkdir()
lines = (folder / 'metadata.jsonl').open('w')
for number, row in enumerate(datasets.load_dataset('NAME', split='train')):
    row['image'].convert('RGB').save(folder / f'{number:06}.png')
    print(json.dumps({'file_name': f'{number:06}.png', 'text': row['text']}), file=lines)"
"""
"""What makes a folder of a dataset that has its pictures in tables."""


def folder_of(name: str) -> Path:
    """The folder of a dataset's pictures and captions, fetched into the hub's cache.

    Args:
        name: on the hub; or a folder here.

    Raises:
        UserError: the hub does not give the dataset, or it has no pictures as files.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import HfApi, snapshot_download  # not for --help

    try:
        names = HfApi().list_repo_files(name, repo_type="dataset")
        pictures = [PurePosixPath(each) for each in names if each.lower().endswith(PICTURES)]
        if not pictures:
            raise _tables(name, names)
        place = _place(pictures, names)
        wanted = [
            each
            for each in names
            if each.lower().endswith(PICTURES + BESIDE)
            and PurePosixPath(each).is_relative_to(place)
        ]
        here = snapshot_download(name, repo_type="dataset", allow_patterns=wanted)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises what its own client does, and OSError
        raise UserError(
            f"--{NAME} {name}: is no folder here, and the hub does not give it "
            f"({first_line(error)[:200]}). Check the name and HF_TOKEN, or download it and give "
            "its folder as --train_data_dir."
        ) from error
    return Path(here) / place


def _place(pictures: list[PurePosixPath], names: list[str]) -> PurePosixPath:
    """The folder in the repository that the pictures are in; of several splits the training's."""
    own = [path for path in pictures if TRAIN in path.parts[:-1]] or pictures
    tables = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == METADATA}
    holding = [table for table in tables if any(path.is_relative_to(table) for path in own)]
    if len(holding) == 1:
        return holding[0]
    return PurePosixPath(os.path.commonpath([str(path.parent) for path in own]) or ".")


def _tables(name: str, names: list[str]) -> UserError:
    found = ", ".join([each for each in names if not each.startswith(".")][:3]) or "nothing"
    return UserError(
        f"--{NAME} {name}: has no pictures as files (it has: {found}). With the package datasets "
        f"installed, this writes them and their captions to a folder:\n"
        f"{WRITE_OUT.replace('NAME', name)}  Then give --train_data_dir pictures."
    )
