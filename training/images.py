"""Pictures from a folder, as a person would expect to see them, or one message that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from training.errors import UserError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"}
)
SMALLEST_SIDE = 16
LARGEST_PIXELS = 300_000_000
"""Above this a header is more likely a decompression bomb than a photo (the largest phone
cameras make 200 megapixels)."""
DRAFT_ABOVE_PIXELS = 30_000_000
"""Pictures above this are reduced at once to spare memory, JPEGs while they are decoded."""


@dataclass(frozen=True)
class Picture:
    """A training picture on disk.

    Attributes:
        path: where it is.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    digest: str


def find_pictures(folder: Path, skip_broken: bool, notify: Callable[[str], None]) -> list[Picture]:
    """The readable pictures of `folder`, by name; other kinds of files are passed over.

    Args:
        skip_broken: leave out unreadable pictures, with a notice each, instead of raising.
        notify: called with a line for each file left out.

    Raises:
        UserError: no folder, no pictures, or unreadable ones: every one of them is named.
    """
    if not folder.is_dir():
        raise UserError(f"train_data_dir {folder}: is not a folder.")
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    pictures, problems = [], []
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            notify(f"{file.name} is passed over: not a picture's file name.")
            continue
        try:
            open_picture(file)
        except UserError as error:
            problems.append(str(error))
            continue
        pictures.append(Picture(file, hashlib.sha256(file.read_bytes()).hexdigest()))
    if problems and not skip_broken:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(
            f"train_data_dir {folder}: {len(problems)} of {len(files)} files cannot be used:\n"
            f"{lines}\n  Replace or remove them, or leave them out with --skip_broken_images."
        )
    for problem in problems:
        notify(f"skipped: {problem}")
    if not pictures:
        raise UserError(
            f"train_data_dir {folder}: has no pictures in it "
            f"({', '.join(sorted(SUFFIXES))}). Three to five of one thing are enough."
        )
    return pictures


def open_picture(path: Path, side: int = 1024) -> Image.Image:
    """Decode a picture to RGB, upright.

    The first frame of an animation; transparency on white; 16-bit grey brought to 8 bits;
    CMYK converted; turned as its EXIF orientation says.

    Args:
        side: the size that will be wanted; a huge picture may be no larger than needed.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    try:
        with _no_pixel_limit(), Image.open(path) as image:
            width, height = image.size
            if width * height > LARGEST_PIXELS:
                raise UserError(
                    f"{path.name}: {width} x {height} is more than {LARGEST_PIXELS:,} pixels; "
                    "make it smaller first."
                )
            if min(width, height) < SMALLEST_SIDE:
                raise UserError(
                    f"{path.name}: {width} x {height} pixels is too small to learn from "
                    f"(at least {SMALLEST_SIDE} x {SMALLEST_SIDE})."
                )
            if width * height > DRAFT_ABOVE_PIXELS:
                image.draft("RGB", (2 * side, 2 * side))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _as_rgb(_of_wanted_size(image, side))
    except UnidentifiedImageError as error:
        raise UserError(f"{path.name}: is not a picture, whatever its name says.") from error
    except UserError:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, RuntimeError, ...
        raise UserError(f"{path.name}: is broken or cut short ({error}).") from error


class _no_pixel_limit:
    """Pillow's own limit warns below ours; `LARGEST_PIXELS` is checked before decoding."""

    def __enter__(self) -> None:
        self.limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None

    def __exit__(self, *_: object) -> None:
        Image.MAX_IMAGE_PIXELS = self.limit


def _of_wanted_size(image: Image.Image, side: int) -> Image.Image:
    """A huge picture by whole pixels smaller, still at least twice `side`; others as they are."""
    factor = min(image.size) // (2 * side)
    if image.width * image.height <= DRAFT_ABOVE_PIXELS or factor < 2:
        return image
    return image.reduce(factor) if image.mode in ("L", "RGB", "CMYK") else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        grey = np.clip(values / top * 255.0, 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image, resolution: int, center_crop: bool, flip: bool) -> torch.Tensor:
    """[3, resolution, resolution] float32 in [-1, 1], as diffusers' script prepares pictures.

    Without `center_crop` the whole picture is squeezed into the square.
    """
    if center_crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    if flip:
        image = ImageOps.mirror(image)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels / 127.5 - 1.0).permute(2, 0, 1).contiguous()
