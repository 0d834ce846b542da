"""Images as people see them: orientation, transparency, deep greys, inks, palettes, animations."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from fedgalore.data.images import checked, decode

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def seen(path: Path, image: Image.Image, **options: Any) -> Image.Image:
    """What becomes of an image on its way through a file, which is found sound."""
    image.save(path, **options)
    decoded = decode(checked(path.parent, path.name))
    assert decoded.mode == "RGB"
    return decoded


def greys(image: Image.Image) -> list[int]:
    pixels = np.asarray(image)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[0, :, 0].tolist()


# --- orientation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "jpg"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_a_photo_is_upright_whatever_way_the_camera_was_held(tmp_path: Path, suffix: str, turned: int) -> None:
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))  # top left
    upright.paste(BLUE, (32, 0, 48, 16))  # top right
    turns = Image.Transpose
    back = {2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE}
    back |= {6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270}
    stored = upright.transpose(back[turned]) if turned in back else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    decoded = seen(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    assert decoded.size == (48, 32)
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(upright)).max() < 8


def test_damaged_exif_data_and_an_orientation_of_no_meaning_leave_the_image_as_it_is(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), RED)
    header = b"Exif\0\0II*\0"
    meaningless = header + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 99, 0, 0)
    for exif in (b"Exif\0\0nonsense", header + b"\xff" * 4, meaningless):
        assert seen(tmp_path / "a.png", image, exif=exif).size == (6, 4)


# --- transparency --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_parts_are_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (3, 1), (*BLACK, 0))
    image.putpixel((1, 0), (*RED, 255))
    image.putpixel((2, 0), (*BLACK, 128))
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    decoded = seen(tmp_path / f"a.{suffix}", image, **options)
    assert [decoded.getpixel((x, 0)) for x in range(3)] == [WHITE, RED, (127, 127, 127)]


def test_greys_with_transparency_and_a_transparent_colour(tmp_path: Path) -> None:
    grey = Image.new("LA", (2, 1), (76, 0))
    grey.putpixel((1, 0), (76, 255))
    assert greys(seen(tmp_path / "a.png", grey)) == [255, 76]
    for image, key in ((Image.new("L", (2, 1), 9), 9), (Image.new("RGB", (2, 1), RED), RED)):
        assert greys(seen(tmp_path / "key.png", image, transparency=key)) == [255, 255]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes_with_and_without_transparency(tmp_path: Path, suffix: str) -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([*BLUE, *RED])
    palette.putpixel((0, 0), 0)
    colours = lambda image: [image.getpixel((x, 0)) for x in range(2)]  # noqa: E731
    assert colours(seen(tmp_path / f"a.{suffix}", palette)) == [BLUE, RED]
    assert colours(seen(tmp_path / f"b.{suffix}", palette, transparency=0)) == [WHITE, RED]
    if suffix == "png":
        assert colours(seen(tmp_path / "c.png", palette, transparency=b"\x00\x80")) == [WHITE, (255, 127, 127)]


def test_a_palette_with_a_channel_of_transparency(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED).convert("P").convert("PA")
    image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    decoded = seen(tmp_path / "a.tiff", image)
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [WHITE, RED]


# --- greys of many bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_16_bits_go_from_black_to_white(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 32_768, 65_535]], np.uint16))
    assert greys(seen(tmp_path / name, image)) == [0, 1, 128, 255]


def test_12_bits_go_from_black_to_white(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}  # width, height, bits, ...
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    pixels = bytes([0x00, 0x0F, 0xFF, 0x00])  # 0 and 4095
    path.write_bytes(b"II*\0" + struct.pack("<I", 12) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))
    assert greys(decode(checked(tmp_path, path.name))) == [0, 255]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.25, 1.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, -np.inf, 2.0, 4.0, np.inf]], np.float32), [0, 0, 0, 255, 255]),
        (np.array([[7.0, 7.0]], np.float32), [0, 0]),
        (np.array([[np.nan]], np.float32), [0]),
    ],
)
def test_32_bits_go_from_the_darkest_to_the_lightest(tmp_path: Path, pixels: np.ndarray, expected: list[int]) -> None:
    assert greys(seen(tmp_path / "a.tiff", Image.fromarray(pixels))) == expected


def test_32_bits_without_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.array([[0, 2**31, 2**32 - 1]], np.uint32).view(np.int32)).save(path)
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, form, 0) for form in (2, 1))
    assert signed in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    assert greys(decode(checked(tmp_path, path.name))) == [0, 128, 255]


def test_one_bit(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert greys(seen(tmp_path / "a.png", image)) == [0, 255]


# --- inks, frames, phones ------------------------------------------------------------------------------------


def test_inks_are_inverted_only_where_adobe_s_mark_says_so(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    path = tmp_path / "a.jpg"
    assert np.abs(np.array(seen(path, inks, quality=100).getpixel((8, 8))) - RED).max() < 6
    assert np.abs(np.array(seen(tmp_path / "a.tiff", inks).getpixel((8, 8))) - RED).max() == 0
    data = path.read_bytes()
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    path.write_bytes(data[:start] + data[start + 2 + length :])  # Pillow stores inks inverted; now nothing says so
    assert np.abs(np.array(decode(path).getpixel((8, 8))) - BLACK).max() < 6


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff", "mpo"])
def test_of_many_frames_the_first_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    if suffix == "mpo":
        path = path.rename(tmp_path / "phone.jpg")
    assert np.abs(np.array(decode(checked(tmp_path, path.name)).getpixel((8, 8))) - RED).max() < 6
