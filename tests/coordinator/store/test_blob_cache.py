"""The cache of a bucket's blobs: bounded, and what was used longest ago goes first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.store import blob_cache
from coordinator.store.blob_cache import BlobCache
from fedgalore.process.blob_ref import BlobRef

MOST_BYTES = 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobCache:
    monkeypatch.setattr(blob_cache, "JUST_USED_S", 0.0)
    return BlobCache(tmp_path / "cache", MOST_BYTES)


def sha256(number: int) -> str:
    return f"{number:064x}"


def put(cache: BlobCache, folder: Path, number: int, size_bytes: int = 200) -> Path | None:
    file = folder / "file"
    file.write_bytes(bytes([number]) * size_bytes)
    path = cache.adopt(file, BlobRef(sha256(number), size_bytes), f"tag {number}")
    assert not file.exists()
    if path is not None:  # last used long ago, the first one longest
        os.utime(path, ns=(number * 10**9, path.stat().st_mtime_ns))
    return path


def test_what_is_put_is_found_with_its_tag(cache: BlobCache, tmp_path: Path) -> None:
    path = put(cache, tmp_path, 1)
    assert path is not None and path.read_bytes() == bytes([1]) * 200
    assert (cache.find(sha256(1)), cache.tag(sha256(1))) == (path, "tag 1")
    assert (cache.find(sha256(2)), cache.tag(sha256(2))) == (None, None)
    cache.drop(sha256(1))
    assert (cache.find(sha256(1)), cache.tag(sha256(1))) == (None, None)


def test_what_was_used_longest_ago_goes_and_stays_readable(cache: BlobCache, tmp_path: Path) -> None:
    for number in range(1, 5):
        path = put(cache, tmp_path, number)
        if number == 2:
            assert path is not None
            opened = path.open("rb")
    assert cache.find(sha256(1))  # and so it is the last one to go
    for number in range(5, 8):
        put(cache, tmp_path, number)
    there = {number for number in range(1, 8) if cache.find(sha256(number))}
    assert there == {1, 5, 6, 7}
    with opened:
        assert opened.read() == bytes([2]) * 200


def test_a_blob_that_would_take_most_of_it_does_not_enter(cache: BlobCache, tmp_path: Path) -> None:
    assert put(cache, tmp_path, 1, 500) is not None
    assert put(cache, tmp_path, 2, 501) is None
    assert cache.find(sha256(2)) is None


def test_what_was_just_used_stays_though_the_cache_is_full(
    cache: BlobCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_cache, "JUST_USED_S", 60.0)
    for number in range(8):
        put(cache, tmp_path, number)
        assert cache.find(sha256(number))
    assert all(cache.find(sha256(number)) for number in range(8))


def test_several_processes_share_the_bound(tmp_path: Path, cache: BlobCache) -> None:
    other = BlobCache(tmp_path / "cache", MOST_BYTES)
    for number in range(20):
        put((cache, other)[number % 2], tmp_path, number, 100)
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*"))
    assert held <= 1.4 * MOST_BYTES
