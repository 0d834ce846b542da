"""The blob store on a real folder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordinator.state.errors import BlobNotFound
from coordinator.state.round_state import BlobRef
from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S, BlobStore, DirectoryBlobStore


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return DirectoryBlobStore(tmp_path / "store")


def files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return sorted(str(path.relative_to(root)) for path in found)


def test_a_blob_lies_under_its_hash_and_nothing_else_is_left(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.put_bytes(b"weights")
    assert blob == BlobRef(hashlib.sha256(b"weights").hexdigest(), 7)
    assert blobs.path(blob.sha256).read_bytes() == b"weights"
    assert files(tmp_path / "store") == [f"sha256/{blob.sha256[:2]}/{blob.sha256}"]


@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_copied_or_moved_in_and_twice_is_once(blobs: BlobStore, tmp_path: Path, move: bool) -> None:
    content = bytes(range(256)) * 10_000  # more than one block
    refs = []
    for name in ("first", "second"):
        path = tmp_path / name
        path.write_bytes(content)
        refs.append(blobs.put_file(path, move=move))
        assert path.exists() is not move
    assert refs[0] == refs[1] == BlobRef(hashlib.sha256(content).hexdigest(), len(content))
    assert blobs.path(refs[0].sha256).read_bytes() == content
    assert len(files(tmp_path / "store")) == 1


def test_an_empty_file_is_a_blob(blobs: BlobStore) -> None:
    blob = blobs.put_bytes(b"")
    assert blobs.read(blob.sha256, 0, 10) == b""


def test_reading_goes_from_an_offset_to_the_end(blobs: BlobStore) -> None:
    blob = blobs.put_bytes(b"0123456789")
    assert blobs.read(blob.sha256, 4, 3) == b"456"
    assert blobs.read(blob.sha256, 8, 3) == b"89"
    assert blobs.read(blob.sha256, 10, 3) == b""


def test_what_is_not_there_and_what_is_no_hash_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("keep out")
    for sha256 in ("0" * 64, "", "../../secret", "A" * 64, "0" * 63 + "\n", "0" * 64 + "\n"):
        assert not blobs.exists(sha256)
        with pytest.raises(BlobNotFound):
            blobs.path(sha256)


def test_a_damaged_blob_is_told_and_makes_room_for_a_sound_one(blobs: BlobStore) -> None:
    blob = blobs.put_bytes(b"0123456789")
    assert not blobs.discard_damaged(blob.sha256)
    assert blobs.is_sound(blob.sha256)
    blobs.path(blob.sha256).write_bytes(b"0123456788")
    assert not blobs.is_sound(blob.sha256)
    assert blobs.discard_damaged(blob.sha256)
    assert not blobs.exists(blob.sha256)
    assert blobs.discard_damaged(blob.sha256)  # missing is as bad
    assert blobs.put_bytes(b"0123456789") == blob
    assert not blobs.discard_damaged(blob.sha256)


def test_a_swept_blob_is_gone_and_can_come_back(blobs: BlobStore) -> None:
    blob = blobs.put_bytes(b"x")
    old = time.time() + GRACE_S + 1
    assert blobs.sweep({blob.sha256}, {blob.sha256}, old) == 0
    assert blobs.sweep((), (), old - GRACE_S) == 0
    assert blobs.sweep((), (), old) == 1
    assert not blobs.exists(blob.sha256)
    assert blobs.put_bytes(b"x") == blob
    assert blobs.exists(blob.sha256)


def test_what_is_known_to_be_over_goes_sooner(blobs: BlobStore) -> None:
    spent, unknown = blobs.put_bytes(b"spent"), blobs.put_bytes(b"unknown")
    assert blobs.sweep((), {spent.sha256}, time.time()) == 0
    assert blobs.sweep((), {spent.sha256}, time.time() + SPENT_GRACE_S + 1) == len(b"spent")
    assert blobs.exists(unknown.sha256)


def test_two_that_sweep_at_once_do_not_stumble(blobs: BlobStore) -> None:
    for number in range(200):
        blobs.put_bytes(bytes([number]))
    with ThreadPoolExecutor(4) as pool:
        freed = pool.map(lambda _: blobs.sweep((), (), time.time() + GRACE_S + 1), range(4))
    assert sum(freed) == 200


def test_old_scratch_goes_when_its_owner_is_gone(blobs: BlobStore, tmp_path: Path) -> None:
    left = tmp_path / "store" / "scratch" / "left"
    left.mkdir()
    (left / "blob").write_bytes(b"half")
    with blobs.scratch_folder() as folder:
        (folder / "export").write_bytes(b"an aggregation that takes hours")
        blobs.sweep((), (), time.time())
        assert left.exists()
        blobs.sweep((), (), time.time() + GRACE_S + 1)
        assert not left.exists()
        assert (folder / "export").exists()
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


def test_scratch_of_a_killed_process_goes(blobs: BlobStore, tmp_path: Path) -> None:
    root = tmp_path / "store"
    script = (
        "import sys, time; from pathlib import Path; from coordinator.store.blob_store import DirectoryBlobStore\n"
        "with DirectoryBlobStore(Path(sys.argv[1])).scratch_folder():\n    print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        blobs.sweep((), (), time.time() + GRACE_S + 1)
        assert len(list((root / "scratch").iterdir())) == 1
        owner.kill()
    blobs.sweep((), (), time.time() + GRACE_S + 1)
    assert list((root / "scratch").iterdir()) == []


def test_blobs_are_bound_once(blobs: BlobStore, tmp_path: Path) -> None:
    assert blobs.store_id() is None
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(blobs.bind, "abcdefgh"))
    assert len(ids) == 1
    assert ids == {blobs.store_id()} == {DirectoryBlobStore(tmp_path / "store").bind("later")}


def test_many_at_once_put_the_same_blob(blobs: BlobStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(lambda _: blobs.put_bytes(b"same" * 50_000), range(32)))
    assert len(refs) == 1
    assert len(files(tmp_path / "store")) == 1


@pytest.mark.parametrize("key", ["", "..", "../x", ".hidden", "a/b", "a b", "a\n", "a" * 256])
def test_keys_of_partial_files_stay_in_their_folder(blobs: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        blobs.partial_path(key)


def test_partial_files_are_listed_by_key(blobs: BlobStore) -> None:
    for key in ("b", "update+job+3+client+00"):
        blobs.partial_path(key).write_bytes(b"half")
    assert blobs.partial_keys() == ["b", "update+job+3+client+00"]


def test_scratch_files_become_blobs_or_go(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.scratch_folder() as folder:
        (folder / "keep").write_bytes(b"keep")
        (folder / "drop").write_bytes(b"drop")
        blob = blobs.put_file(folder / "keep", move=True)
    assert files(tmp_path / "store") == [f"sha256/{blob.sha256[:2]}/{blob.sha256}"]


def test_the_check_passes_on_a_store_and_fails_on_a_broken_one(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.check()
    assert files(tmp_path / "store") == []
    (tmp_path / "store" / "scratch").rmdir()
    with pytest.raises(OSError, match="scratch"):
        blobs.check()
