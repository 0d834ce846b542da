"""Data sets of images: tables that name them, folders by class, every way they are wrong; and what they become."""

from __future__ import annotations

import json
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedgalore.data.examples import DataError, SplitFile, read_examples
from fedgalore.data.images import ImageError, decode

RED = (255, 0, 0)


def picture(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (6, 4), RED)).save(path, **options)
    return path


def table(folder: Path, *names: Any) -> SplitFile:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"file": name, "label": 1}) + "\n" for name in names))
    return SplitFile(path, image="file", label="label")


def refused(split: SplitFile) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(split)
    return str(caught.value)


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


# --- tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_table_names_images_relative_to_its_folder(tmp_path: Path, suffix: str) -> None:
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "more" / "b.jpg")
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"file": ["a.png", "more/b.jpg"], "kind": ["x", "y"]}), path)
    elif suffix == "csv":
        path.write_text("file,kind\na.png,x\nmore/b.jpg,y\n")
    else:
        path.write_text('{"file": "a.png", "kind": "x"}\n{"file": "more/b.jpg", "kind": "y"}\n')
    examples = read_examples(SplitFile(path, image="file", label="kind"))
    assert [(e["image"], e["label"]) for e in examples] == [(str(first), "x"), (str(second), "y")]
    assert [e["row"] for e in examples] == ([2, 3] if suffix == "csv" else [1, 2])


def test_a_name_that_leads_out_of_the_table_s_folder_is_refused(tmp_path: Path) -> None:
    outside, folder = picture(tmp_path / "outside.png"), tmp_path / "site"
    picture(folder / "inside.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to("inside.png")
    for name in ("../outside.png", "../site/../outside.png", str(outside), str(folder / "inside.png"), "link.png"):
        message = refused(table(folder, "inside.png", name))
        for words in ("a.jsonl, row 2, column 'file'", f"{name!r} leads out of {folder}; copy the image into it"):
            assert words in message
    examples = read_examples(table(folder, "inner.png", "../site/inside.png"))
    assert {e["image"] for e in examples} == {str(folder / "inside.png")}


def test_a_site_s_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    inside = picture(tmp_path / "disk" / "a.png")
    (tmp_path / "site").symlink_to("disk")
    table(tmp_path / "disk", "a.png")
    (example,) = read_examples(SplitFile(tmp_path / "site" / "a.jsonl", image="file", label="label"))
    assert example["image"] == str(inside)


def test_links_out_of_the_folder_are_followed_where_the_site_says_so(tmp_path: Path) -> None:
    outside, folder = picture(tmp_path / "outside.png"), tmp_path / "site"
    folder.mkdir()
    (folder / "link.png").symlink_to(outside)
    for name in ("../outside.png", "../site/../outside.png", str(outside)):  # a name is no link
        assert "leads out of" in refused(replace(table(folder, name), follow_links=True))
    (example,) = read_examples(replace(table(folder, "link.png"), follow_links=True))
    assert example["image"] == str(outside)
    classes = tmp_path / "train"
    classes.mkdir()
    (classes / "cat").symlink_to(folder)
    (folder / "a.jsonl").unlink()
    assert "follow_links: true lets links lead elsewhere" in refused(SplitFile(classes))
    (example,) = read_examples(SplitFile(classes, follow_links=True))
    assert (example["image"], example["label"]) == (str(outside), "cat")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.png", "'absent.png' is not a file in "),
        (".", "'.' is not a file in "),
        ("a\0.png", "cannot be found"),
        ("loop.png", "loop.png"),
        ("x" * 300 + ".png", "cannot be found"),
        (" ", "empty text"),
        (None, "expected text, found nothing"),
        ({"bytes": "", "path": "a.png"}, "an image inside of the table; save the images as files"),
    ],
)
def test_names_of_no_file_are_refused(tmp_path: Path, name: Any, words: str) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    message = refused(table(tmp_path, name))
    assert "a.jsonl, row 1, column 'file'" in message
    assert words in message


# --- folders -------------------------------------------------------------------------------------------------


def test_a_folder_has_a_class_in_each_sub_folder_and_examples_in_order_of_names(tmp_path: Path) -> None:
    paths = [picture(tmp_path / name) for name in ("cat/1.png", "cat/2.PNG", "old dog/0.bmp")]
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache").write_text("")
    (tmp_path / "cat" / ".hidden").write_text("")
    for litter in ("Thumbs.db", "desktop.ini", "cat/Thumbs.db", "cat/DESKTOP.INI", "cat/.DS_Store", ".DS_Store"):
        (tmp_path / litter).write_text("")
    for litter in ("__MACOSX/cat", "cat/@eaDir", "$RECYCLE.BIN"):
        (tmp_path / litter).mkdir(parents=True)
    assert read_examples(SplitFile(tmp_path)) == [
        {"row": row, "image": str(path), "label": label}
        for row, (path, label) in enumerate(zip(paths, ("cat", "cat", "old dog"), strict=True), start=1)
    ]


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    assert "holds no examples" in refused(SplitFile(tmp_path))
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    message = refused(SplitFile(tmp_path))
    assert f"{tmp_path}: 'cat/notes.txt' is no image of a known kind" in message
    assert "convert or remove it" in message
    (tmp_path / "cat" / "notes.txt").unlink()
    (tmp_path / "cat" / "more").mkdir()
    assert "'cat/more' is a folder inside of a class; move its images into 'cat' itself" in refused(SplitFile(tmp_path))
    (tmp_path / "cat" / "more").rmdir()
    picture(tmp_path / "2.png")
    assert "'2.png' is no folder of a class; move images into sub-folders" in refused(SplitFile(tmp_path))


def test_names_are_found_in_either_form_of_unicode(tmp_path: Path) -> None:
    written, asked = "cafe\u0301.png", "caf\u00e9.png"  # by macOS, and by the table
    for on_disk, named in ((written, asked), (asked, written)):
        folder = tmp_path / f"site{len(on_disk)}"
        path = picture(folder / on_disk)
        (example,) = read_examples(table(folder, named))
        assert example["image"] == str(path)


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "1.png")
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    assert "'cat/1.png' leads out of " in refused(SplitFile(folder))


def test_a_folder_with_columns_and_a_file_without_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    message = refused(SplitFile(tmp_path, image="file", label="label"))
    assert "is a folder of 'cat'; name a table, or a folder that holds files of one kind alone; or name no" in message
    (tmp_path / "a.csv").write_text("file,label\n")
    assert "no columns are named, and it is no folder of images; name text" in refused(SplitFile(tmp_path / "a.csv"))


# --- files that are no images --------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(bits: int, sample_format: int) -> bytes:
    """A TIFF of one grey."""
    tags = {256: 1, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: bits // 8, 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IQH", 16, 0, len(tags)) + entries + bytes(4)


def test_files_that_are_no_sound_images_are_refused_when_the_data_is_read(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", noise(40, 40, 3)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bad = {
        "text.png": (b"not an image", "is no image of a known kind (JPEG, PNG,"),
        "empty.jpg": (b"", "is an empty file; copy the image again"),
        "cut.jpg": (b"\xff\xd8\xff\xe0", "begins as JPEG and cannot be read: it is damaged, or of a kind of JPEG that"),
        "doubles.tif": (tiff(bits=64, sample_format=3), "begins as TIFF and cannot be read"),
        "drawing.eps": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
            "is no image of a known",
        ),
        "cut.png": (whole[: len(whole) // 2], "is damaged or cannot be read"),
        "flipped.png": (bytes(flipped), "is damaged or cannot be read"),
        "bomb.png": (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""),
            "has more than 178,956,970 pixels, which is not safe; make it",
        ),
    }
    for name, (data, words) in bad.items():
        (tmp_path / name).write_bytes(data)
        message = refused(table(tmp_path, "whole.png", name))
        assert "a.jsonl, row 2, column 'file'" in message
        assert f"{name!r} " in message
        assert words in message
        assert ";" in message  # and what to do


def test_a_large_image_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", noise(40, 40, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns of more, and refuses twice as many
    (example,) = read_examples(table(tmp_path, "a.png"))
    with warnings.catch_warnings(record=True) as told:
        assert decode(Path(example["image"])).size == (40, 40)
    assert not told
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ImageError, match=r"a\.png' has more than 1,400 pixels, which is not safe; make it smaller"):
        decode(path)


def test_pixels_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "lab.tiff", Image.new("LAB", (4, 4)))
    assert "has pixels of mode LAB; save it in RGB" in refused(table(tmp_path, "lab.tiff"))


# --- decoding ------------------------------------------------------------------------------------------------


def test_a_cut_image_whose_header_is_sound_is_refused_when_it_is_decoded(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[:1500])
    (example,) = read_examples(table(tmp_path, "a.jpg"))
    with pytest.raises(ImageError, match=r"a\.jpg' is damaged or cannot be read .*truncated.*copy it again"):
        decode(Path(example["image"]))
