"""A picture's file, as a person would expect to see it, or one message that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from training.errors import UserError

pillow_heif.register_heif_opener(thumbnails=False)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000")
"""Pillow's names of what is read."""
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        *(".heic", ".heif", ".jp2"),
    }
)
"""How they are usually called. A file is read by its content; these tell a broken one."""
RAW = "camera raw"
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (8, b"CR\x02\0", RAW),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftypavif", "AVIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (4, b"ftypcrx ", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIU\0", RAW),
    (0, b"<svg", "SVG"),
)
"""(offset, bytes, kind) of files that are pictures, read or not; the first that fits."""
UNREAD = {
    ".jxl": "JPEG XL", ".psd": "Photoshop", ".svg": "SVG", ".tga": "TGA", ".ico": "ICO",
    ".pcx": "PCX", ".ppm": "PPM",
    **dict.fromkeys(
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"), RAW
    ),
}  # fmt: skip
"""Suffixes of pictures that are not read."""
DNG_VERSION, NEW_SUBFILE_TYPE, REDUCED_RESOLUTION = 50706, 254, 1
"""Two tags of TIFF, and a bit in the second."""

SMALLEST_SIDE = 16
LARGEST_PIXELS = 300_000_000
"""Above this a header is more likely a decompression bomb than a photo (the largest phone
cameras make 200 megapixels)."""
DRAFT_ABOVE_PIXELS = 30_000_000
"""Pictures above this are reduced at once to spare memory, JPEGs while they are decoded."""


def is_a_picture(path: Path) -> bool:
    """Whether a file's name or its content says so, whether it can be read or not."""
    if path.suffix.lower() in SUFFIXES or _kind(path):
        return True
    try:
        with _no_pixel_limit(), Image.open(path, formats=FORMATS):
            return True
    except Exception:  # readers stumble over other files in many ways
        return False


def _kind(path: Path) -> str | None:
    """What a file is by its first bytes, or by the name of a kind that is not read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(32)
    except OSError:
        return None
    found = (kind for at, known, kind in SIGNATURES if start[at:].startswith(known))
    return next(found, UNREAD.get(path.suffix.lower()))


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
        with _no_pixel_limit(), Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if _is_raw(path, image):
                raise UserError(f"{path.name}: is a {RAW} file; export it as JPEG or PNG first.")
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
        raise UserError(f"{path.name}: {_why_not(path)}") from error
    except UserError:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, RuntimeError, ...
        raise UserError(f"{path.name}: is broken or cut short ({error}).") from error


def _why_not(path: Path) -> str:
    """What a file is that none of `FORMATS` reads."""
    kind = _kind(path)
    if kind is None:
        return "is not a picture, whatever its name says."
    if kind.upper().replace(" ", "") in FORMATS:
        return f"is broken or cut short (it begins as a {kind} file)."
    return f"is a {kind} picture, which is not read here; save it as PNG or JPEG."


def _is_raw(path: Path, image: Image.Image) -> bool:
    """Many raw files are TIFFs whose first picture is a small preview, not to be learned from."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    reduced = image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION
    return DNG_VERSION in image.tag_v2 or bool(reduced) or _kind(path) == RAW


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


def to_tensor(
    image: Image.Image, resolution: int | tuple[int, int], center_crop: bool, flip: bool
) -> torch.Tensor:
    """[3, height, width] float32 in [-1, 1], as diffusers' script prepares pictures.

    Without `center_crop` the whole picture is squeezed into that shape.

    Args:
        resolution: (height, width) in pixels, or the side of a square.
        center_crop: cut to that shape first, the centre kept.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if center_crop:
        across = min(image.width, image.height * width // height)
        down = min(image.height, image.width * height // width)
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + across, top + down))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if flip:
        image = ImageOps.mirror(image)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels / 127.5 - 1.0).permute(2, 0, 1).contiguous()
