"""Pictures as a person would see them, or one message that names the ones that are broken."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from bootstrap.node.downloads.hub_files import PICTURES
from training.data.dataset import find_pictures
from training.data.images import LARGEST_PIXELS, SUFFIXES, open_picture, to_tensor
from training.errors import UserError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
GIGABYTE = 2**30


def two_halves() -> Image.Image:
    """40 x 20, red on the left and blue on the right."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        open_picture(path)
    return str(raised.value)


def outcome(path: Path) -> str:
    """The mode of the picture, or what is wrong with it."""
    try:
        return open_picture(path).mode
    except UserError as error:
        return str(error)


def pixel(image: Image.Image, x: int, y: int) -> object:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotated_picture_is_upright(orientation: int, tmp_path: Path) -> None:
    upright = two_halves()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), np.asarray(upright))


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = np.asarray(open_picture(tmp_path / "a.jpg"))[10, 10]
    assert red > 250
    assert max(green, blue) < 5


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        found = np.asarray(open_picture(tmp_path / name))
        assert np.abs(found[..., 0].astype(float) - ramp / 257.0).max() <= 0.51
        assert (found[..., 0] == found[..., 1]).all()
        assert (found[..., 0] == found[..., 2]).all()


def test_float_grey_is_brought_to_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 200.0, dtype=np.float32)).save(tmp_path / "a.tif")
    assert pixel(open_picture(tmp_path / "a.tif"), 5, 5) == WHITE


def test_transparency_is_on_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    layer.paste((0, 0, 0, 0), (10, 0, 20, 20))
    layer.save(tmp_path / "rgba.png")
    layer.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.paste(1, (10, 0, 20, 20))
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    for name in ("rgba.png", "la.png", "palette.png", "palette.gif"):
        assert pixel(open_picture(tmp_path / name), 15, 5) == WHITE, name
    for name in ("rgba.png", "palette.png", "palette.gif"):
        assert pixel(open_picture(tmp_path / name), 5, 5) == RED, name


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation_is_used(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    assert pixel(open_picture(tmp_path / f"a.{kind}"), 5, 5) == RED


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_mode_becomes_rgb_of_the_same_size(mode: str, tmp_path: Path) -> None:
    image = noise("RGB").convert("LAB") if mode == "LAB" else noise(mode)
    kind = "png" if mode in ("1", "L", "P", "RGB", "RGBA", "LA") else "tif"
    if mode == "HSV":
        image = image.convert("RGB")
    image.save(tmp_path / f"a.{kind}")
    found = open_picture(tmp_path / f"a.{kind}")
    assert (found.mode, found.size) == ("RGB", (40, 24))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (15, 16)])
def test_a_picture_of_a_few_pixels_is_refused_by_name(
    size: tuple[int, int], tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / "dot.png")
    assert complaint(tmp_path / "dot.png") == (
        f"dot.png: {size[0]} x {size[1]} pixels is too small to learn from (at least 16 x 16)."
    )


def write_uniform_png(path: Path, width: int, height: int, channels: int) -> None:
    """A black PNG of any size, row by row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    deflate, row = zlib.compressobj(1), bytes(1 + width * channels)
    data = b"".join([*(deflate.compress(row) for _ in range(height)), deflate.flush()])
    colour = {1: 0, 3: 2}[channels]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def peak_memory() -> int:
    """The most bytes of memory that this process has had since `clear_refs` was written."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_200_megapixels_are_read_in_less_than_2_gigabytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"huge.{kind}"
    if kind == "jpg":
        Image.new("L", (20_000, 10_000)).save(path)
    else:
        write_uniform_png(path, 20_000, 10_000, 3)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    image = open_picture(path, 512)
    assert peak_memory() - before < (GIGABYTE // 2 if kind == "jpg" else 2 * GIGABYTE)
    assert min(image.size) >= 512
    assert image.width / image.height == pytest.approx(2, abs=0.01)
    assert set(to_tensor(image, 64, False, False).flatten().tolist()) == {-1.0}


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    write_uniform_png(path, 100_000, 10, 1)
    whole = path.read_bytes()
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + whole[24:29]
    path.write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])
    assert complaint(path).startswith(
        f"bomb.png: 100000 x 100000 is more than {LARGEST_PIXELS:,} pixels"
    )
    assert Image.MAX_IMAGE_PIXELS is not None


def test_text_named_jpg_is_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("the toy is red")
    (tmp_path / "empty.png").write_bytes(b"")
    assert complaint(tmp_path / "notes.jpg") == (
        "notes.jpg: is not a picture, whatever its name says."
    )
    assert complaint(tmp_path / "empty.png").startswith("empty.png: is not a picture")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_a_picture_cut_short_is_named_at_any_length(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{kind}"
    noise("P" if kind == "gif" else "RGB").save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 40, len(whole) // 25):
        path.write_bytes(whole[:length])
        assert complaint(path).startswith(f"cut.{kind}: is "), length


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tif", "jp2", "avif", "heif"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_one_error_that_names_it(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    noise("P" if kind == "gif" else "RGB").save(
        stream, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(kind, kind)
    )
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, min(len(damaged), 400) - 1))
        damaged[where] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(bytes(damaged))
    assert outcome(path).startswith(("RGB", f"damaged.{kind}: "))


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo"])
def test_a_phones_photo_is_read_upright(name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves().transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / name, "HEIF", exif=exif.tobytes(), quality=95
    )
    found = open_picture(tmp_path / name)
    assert (found.mode, found.size) == ("RGB", (40, 20))
    red, blue = np.asarray(found)[10, 5], np.asarray(found)[10, 35]
    assert red[0] > 220 > 50 > red[2]
    assert blue[2] > 220 > 50 > blue[0]
    assert [p.path.name for p in find_pictures(tmp_path, False, lambda text: None)] == [name]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000"])
def test_a_picture_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    for name in ("IMG_0001", "photo.jfif", "photo.dat"):
        noise("P" if kind == "GIF" else "RGB").save(tmp_path / name, kind)
    found = find_pictures(tmp_path, False, lambda text: None)
    assert [picture.path.name for picture in found] == ["IMG_0001", "photo.dat", "photo.jfif"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("photo", b"\xff\x0a" + bytes(60), "is a JPEG XL picture, which is not read here"),
        ("photo.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "is a JPEG XL picture"),
        ("layers.dat", b"8BPS\0\x01" + bytes(60), "is a Photoshop picture"),
        ("drawing.svg", b'<?xml version="1.0"?><svg/>', "is a SVG picture"),
        ("IMG_1.CR3", b"\0\0\0\x18ftypcrx " + bytes(60), "is a camera raw picture"),
        ("IMG_2.nef", b"MM\0*" + bytes(60), "is broken or cut short"),
        ("photo", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(9), "is broken or cut short"),
        ("photo", b"\0\0\0\x18ftypheic" + bytes(60), "is broken or cut short"),
        ("texture.tga", bytes(60), "is a TGA picture"),
    ],
)
def test_a_picture_that_is_not_read_is_an_error(
    name: str, content: bytes, what: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_bytes((pictures / "0.png").read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"  - {name}: {what}")):
        find_pictures(tmp_path, False, lambda text: None)
    assert len(find_pictures(tmp_path, True, lambda text: None)) == 1


@pytest.mark.parametrize("tag", [(254, 1), (50706, b"\x01\x04\0\0")])
def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture(
    tag: tuple[int, Any], tmp_path: Path
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag[0]] = tag[1]
    noise().save(tmp_path / "IMG_1.dng", "TIFF", tiffinfo=tags)
    assert complaint(tmp_path / "IMG_1.dng").startswith("IMG_1.dng: is a camera raw file")


def test_the_cluster_sends_every_kind_that_is_read() -> None:
    assert set(PICTURES) == SUFFIXES


def test_all_broken_pictures_of_a_folder_are_named_at_once(pictures: Path, tmp_path: Path) -> None:
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    noise().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(UserError) as raised:
        find_pictures(tmp_path, False, lambda text: None)
    found = str(raised.value)
    assert f"{tmp_path}: 2 of 7 files cannot be used:" in found
    assert "  - cut.jpg: is broken or cut short" in found
    assert "  - text.jpg: is not a picture" in found
    assert "--skip_broken_images" in found
    notices: list[str] = []
    kept = find_pictures(tmp_path, True, notices.append)
    assert [picture.path.name for picture in kept] == [f"{i}.png" for i in range(5)]
    assert [notice.split(":")[0:2] for notice in notices] == [
        ["skipped", " cut.jpg"], ["skipped", " text.jpg"],
    ]  # fmt: skip


def test_other_files_are_passed_over_with_a_notice(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "B.PNG").write_bytes((pictures / "0.png").read_bytes())
    (tmp_path / "a.png").write_bytes((pictures / "1.png").read_bytes())
    (tmp_path / "captions.txt").write_text("a toy")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    notices: list[str] = []
    found = find_pictures(tmp_path, False, notices.append)
    assert [picture.path.name for picture in found] == ["B.PNG", "a.png"]
    assert notices == ["captions.txt is skipped: not a picture."]
    assert found[0].digest != found[1].digest


def test_a_folder_that_is_empty_or_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no pictures in it \(.avif, .bmp, .gif"):
        find_pictures(tmp_path, False, lambda text: None)
    with pytest.raises(UserError, match="is not a folder"):
        find_pictures(tmp_path / "absent", False, lambda text: None)


def test_values_are_from_minus_one_to_one() -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0] = (255, 128, 0), (127, 1, 254), (64, 64, 64)
    found = to_tensor(Image.fromarray(pixels), 16, False, False)
    assert (found.shape, found.dtype) == ((3, 16, 16), torch.float32)
    assert found.is_contiguous()
    assert found[:, 0, 0].tolist() == pytest.approx([1.0, 1 / 255, -1.0], abs=1e-6)
    assert found[:, 0, 1].tolist() == pytest.approx([-1 / 255, -253 / 255, 253 / 255], abs=1e-6)
    assert found[:, 1, 0].tolist() == pytest.approx([-127 / 255] * 3)


@pytest.mark.parametrize("size", [(40, 24), (24, 41), (33, 33)])
@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_those_of_diffusers(
    size: tuple[int, int], center_crop: bool, flip: bool
) -> None:
    """Its dataset's steps, in numpy and Pillow."""
    image = noise(size=size)
    pixels = np.array(image).astype(np.uint8)
    if center_crop:
        crop = min(pixels.shape[0], pixels.shape[1])
        height, width = pixels.shape[:2]
        pixels = pixels[
            (height - crop) // 2 : (height + crop) // 2, (width - crop) // 2 : (width + crop) // 2
        ]
    wanted = np.array(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    wanted = wanted[:, ::-1] if flip else wanted
    values = (wanted.astype(np.uint8) / 127.5 - 1.0).astype(np.float32).transpose(2, 0, 1)
    found = to_tensor(image, 16, center_crop, flip)
    assert np.abs(found.numpy() - values).max() < 1e-6


def test_a_picture_is_cut_to_the_shape_that_is_wanted_its_centre_kept() -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 30:50] = 255  # the middle fourth is white
    found = to_tensor(Image.fromarray(pixels), (20, 10), True, False)
    assert found.shape == (3, 20, 10)
    assert float(found.min()) == 1.0
    squeezed = to_tensor(Image.fromarray(pixels), (20, 10), False, False)
    assert squeezed.shape == (3, 20, 10)
    assert float(squeezed.min()) == -1.0
