"""Blobs that are parts of others: they read as the file that was put, and live as long as they are needed."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.state.errors import BlobNotFound
from coordinator.store.blob_store import GRACE_S
from coordinator.store.composed import Copy
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.numbers import as_float32, as_stored
from fedgalore.process.blob_ref import BlobRef
from tests.builders import content_of, put_bytes

NUMBERS = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)  # more than a block
OWN = b"a head of its own"


class House:
    """A source of numbers in bfloat16, and a file with the last of them as they are and all of them in float32."""

    def __init__(self, folder: Path) -> None:
        self.root, self.blobs = folder / "store", DirectoryBlobStore(folder / "store")
        narrow = as_stored(NUMBERS, "BF16")
        self.source = put_bytes(self.blobs, b"header" + narrow)
        wide = as_float32(np.frombuffer(narrow, np.uint8), "BF16").tobytes()
        self.content = narrow[-6:] + OWN + wide + b"end"
        self.copies = (
            Copy(6 + len(OWN), len(wide), self.source, 6, "BF16", "F32"),
            Copy(0, 6, self.source, len(narrow), "BF16", "BF16"),
        )
        self.file = folder / "file"
        self.file.write_bytes(self.content)

    def put(self, *copies: Copy) -> BlobRef:
        return self.blobs.put_file(self.file, copies=copies or self.copies)

    @property
    def composed(self) -> list[Path]:
        return list((self.root / "composed").glob("??/*"))

    def sweep(self, *keep: BlobRef) -> int:
        return self.blobs.sweep({blob.sha256 for blob in keep}, (), time.time() + GRACE_S + 1)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_it_reads_as_the_file_and_holds_only_what_the_source_lacks(house: House) -> None:
    blob = house.put()
    (parts,) = house.composed
    assert parts.stat().st_size < 500
    assert parts.read_bytes().endswith(OWN + b"end")
    assert content_of(house.blobs, blob.sha256) == house.content
    assert house.blobs.exists(blob.sha256)
    assert house.blobs.holds(blob)
    assert not house.blobs.holds(replace(blob, size_bytes=1))
    assert house.blobs.stored_bytes(blob) == parts.stat().st_size
    assert house.blobs.stored_bytes(house.source) == house.source.size_bytes
    assert house.blobs.stored_bytes(replace(blob, size_bytes=1)) is None
    assert house.blobs.is_sound(blob.sha256)
    with house.blobs.on_disk(blob.sha256) as path:
        assert path.read_bytes() == house.content
    chance = np.random.default_rng(1)
    with closing(house.blobs.open(blob.sha256)) as file:
        for offset in (*chance.integers(0, len(house.content), 50).tolist(), 0, 5, 22, 23, len(house.content)):
            length = int(chance.integers(1, 99))
            assert file.read(offset, length) == house.content[offset : offset + length]
    with pytest.raises(ValueError, match="closed"):
        file.read(0, 1)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"offset": 8}, 1),
        ({"offset": 2**40}, 1),
        ({"stored": "F16"}, 1),
        ({"source": BlobRef("0" * 64, 9)}, 1),
        ({}, 2),
    ],
)
def test_copies_are_compared_and_false_ones_are_stored(house: House, change: dict[str, object], kept: int) -> None:
    blob = house.put(replace(house.copies[0], **change), house.copies[1])
    assert content_of(house.blobs, blob.sha256) == house.content
    assert (house.composed[0].stat().st_size > len(house.content) // 2) == (kept == 1)


def test_a_file_without_a_true_copy_is_a_blob_as_others(house: House) -> None:
    house.put(replace(house.copies[0], offset=8))
    assert house.composed == []


def test_it_is_put_again_whole_or_in_parts(house: House) -> None:
    blob = house.put()
    assert house.put() == put_bytes(house.blobs, house.content) == house.blobs.put_file(house.file, move=True) == blob
    assert not house.file.exists()
    assert sorted(path.name for path in (house.root / "sha256").glob("??/*")) == [house.source.sha256]
    house.file.write_bytes(house.content)
    house.composed[0].unlink()
    assert house.blobs.put_file(house.file) == house.put() == blob  # it is whole, and stays so
    assert house.composed == []


@pytest.mark.parametrize("damage", ["source", "source cut", "source gone", "parts", "own bytes", "parts cut"])
def test_damage_anywhere_is_noticed_and_mended_by_a_sound_copy(house: House, damage: str) -> None:
    blob = house.put()
    where = house.composed[0] if damage.startswith(("parts", "own")) else None
    path = where or house.root / "sha256" / house.source.sha256[:2] / house.source.sha256
    sound = path.read_bytes()
    match damage.split():
        case ["source", "gone"]:
            path.unlink()
        case [_, "cut"]:
            path.write_bytes(sound[:100])
        case ["own", _]:
            path.write_bytes(sound[:-1] + b"!")
        case _:
            path.write_bytes(sound[:50] + b"!" + sound[51:])
    assert not house.blobs.is_sound(blob.sha256)
    if damage in ("source gone", "source cut", "parts", "parts cut"):
        assert not house.blobs.holds(blob)
    path.write_bytes(sound)
    assert house.blobs.is_sound(blob.sha256)


def test_its_source_lives_as_long_as_it_does(house: House) -> None:
    blob = house.put()
    assert house.sweep(blob) == 0
    assert content_of(house.blobs, blob.sha256) == house.content
    with closing(house.blobs.open(blob.sha256)) as file:
        assert house.sweep() > house.source.size_bytes
        assert not house.blobs.exists(house.source.sha256)
        assert not house.blobs.exists(blob.sha256)
        assert file.read(0, len(house.content)) == house.content
    with pytest.raises(BlobNotFound):
        house.blobs.open(blob.sha256)


def test_a_young_one_keeps_an_old_source(house: House) -> None:
    blob = house.put()
    house.blobs.sweep((), {house.source.sha256}, time.time() + GRACE_S - 60)
    assert house.blobs.is_sound(blob.sha256)


def test_a_needed_one_that_does_not_tell_its_sources_stops_the_sweep(house: House) -> None:
    blob = house.put()
    (parts,) = house.composed
    sound = parts.read_bytes()
    parts.write_bytes(b"?" * 50)
    for look in (house.sweep, lambda kept: house.blobs.held({kept.sha256})):
        with pytest.raises(OSError, match=r"cannot be read .*restore it"):
            look(blob)
    parts.write_bytes(sound)
    assert content_of(house.blobs, blob.sha256) == house.content


def test_a_missing_source_does_not_take_what_is_made_of_it(house: House) -> None:
    blob = house.put()
    path = house.root / "sha256" / house.source.sha256[:2] / house.source.sha256
    path.rename(house.root / "away")
    assert house.blobs.discard_damaged(blob.sha256)
    (house.root / "away").rename(path)
    assert content_of(house.blobs, blob.sha256) == house.content
