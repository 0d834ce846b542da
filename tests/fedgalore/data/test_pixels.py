"""Images as people see them: orientation, transparency, deep greys, inks, palettes, animations."""

from __future__ import annotations

import struct
import zlib
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


def png(path: Path, bits: int, colours: int, row: bytes, transparent: bytes) -> Image.Image:
    """A row of pixels as PNG with a transparent colour, decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(row) * 8 // bits // (3 if colours else 1)
    header = struct.pack(">IIBBBBB", width, 1, bits, colours, 0, 0, 0)
    rest = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest)
    return decode(checked(path.parent, path.name))


def words(*values: int) -> bytes:
    return np.array(values, ">u2").tobytes()


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, b"\xa5", 1, [255, 0, 255, 0, 0, 255, 0, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x08\x1f", 8, [0, 255, 17, 255]),
        (8, b"\0\x01\x80", 1, [0, 255, 128]),
        (16, words(0, 257, 256, 32_768), 0, [255, 1, 1, 128]),
        (16, words(0, 257, 256, 32_768), 257, [0, 255, 1, 128]),
    ],
)
def test_a_transparent_grey_of_any_depth_is_white(
    tmp_path: Path, bits: int, row: bytes, transparent: int, expected: list[int]
) -> None:
    assert greys(png(tmp_path / "a.png", bits, 0, row, words(transparent))) == expected


@pytest.mark.parametrize("colour", [(0, 0, 0), (0xFF80, 0, 1), (0x80FF, 0x0102, 0xFFFF)])
def test_a_transparent_colour_of_16_bits_is_white(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    decoded = png(tmp_path / "a.png", 16, 2, words(*colour, 0x1234, 0, 0xABCD), words(*colour))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [WHITE, (0x12, 0, 0xAB)]


def test_premultiplied_colours_on_white(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.frombytes("RGBA", (2, 1), bytes([128, 0, 0, 128, 0, 0, 0, 0])).save(path)
    plain, multiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    assert plain in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(plain, multiplied))
    decoded = decode(checked(tmp_path, path.name))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [(255, 127, 127), WHITE]


def test_what_the_first_frame_of_a_gif_leaves_out_is_white(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    Image.new("RGB", (1, 1), RED).save(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x2c")  # the frame's place and size
    data[6:8], data[place + 1 : place + 3] = struct.pack("<H", 3), struct.pack("<H", 1)
    path.write_bytes(data)
    assert [decode(path).getpixel((x, 0)) for x in range(3)] == [WHITE, RED, WHITE]


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


def tiff(path: Path, pixels: bytes, bits: int, white: int, sample_format: int = 1) -> Image.Image:
    """A row of greys as TIFF, decoded; `white` is 0 or 1: of which the lightest pixel has 0 or the most."""
    width = len(pixels) * 8 // bits
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: white, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    tags[339] = sample_format
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padded = pixels + bytes(len(pixels) % 2)
    ends = struct.pack("<I", 8 + len(padded)), struct.pack("<H", len(tags))
    path.write_bytes(b"II*\0" + ends[0] + padded + ends[1] + entries + bytes(4))
    return decode(checked(path.parent, path.name))


@pytest.mark.parametrize(
    ("pixels", "bits", "sample_format", "expected"),
    [
        (b"\xa5", 1, 1, [255, 0, 255, 0, 0, 255, 0, 255]),
        (b"\x1b", 2, 1, [0, 85, 170, 255]),
        (b"\x08\xf0", 4, 1, [0, 136, 255, 0]),
        (b"\0\x01\x80\xff", 8, 1, [0, 1, 128, 255]),
        (np.array([0, 257, 32_768, 65_535], "<u2").tobytes(), 16, 1, [0, 1, 128, 255]),
        (np.array([0.0, 0.25, 1.0], "<f4").tobytes(), 32, 3, [0, 64, 255]),
    ],
)
def test_greys_of_which_0_is_white_are_the_right_way_round(
    tmp_path: Path, pixels: bytes, bits: int, sample_format: int, expected: list[int]
) -> None:
    assert greys(tiff(tmp_path / "black.tiff", pixels, bits, 1, sample_format)) == expected
    white = greys(tiff(tmp_path / "white.tiff", pixels, bits, 0, sample_format))
    assert white == [255 - grey for grey in expected]


def test_12_bits_and_signed_ones(tmp_path: Path) -> None:
    assert greys(tiff(tmp_path / "a.tiff", bytes([0x00, 0x0F, 0xFF]), 12, 1)) == [0, 255]
    assert greys(tiff(tmp_path / "b.tiff", np.array([-128, 0, 127], "i1").tobytes(), 8, 1, 2)) == [0, 128, 255]
    assert greys(tiff(tmp_path / "c.tiff", np.array([-1000, 0, 1000], "<i2").tobytes(), 16, 1, 2)) == [0, 128, 255]


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
