"""Files named by their content: what a kill or a power cut at any moment leaves of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedgalore.process import content_folder
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ContentFolder, has_content, hash_file, ref_of_file
from fedgalore.process.ranges import FileRanges
from tests.killed import CASES

BLOB = BlobRef(hashlib.sha256(b"weights").hexdigest(), 7)


@pytest.fixture
def folder(tmp_path: Path) -> ContentFolder:
    return ContentFolder(tmp_path)


def received(folder: ContentFolder) -> Path:
    path = folder.partial_path("key")
    path.write_bytes(b"weights")
    return path


@pytest.mark.proof
@pytest.mark.parametrize("case", CASES)
def test_a_kill_between_any_two_lines_leaves_no_half_file(case: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.killed", case, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_adopt_returns(
    folder: ContentFolder, disk: list[tuple[str, int]]
) -> None:
    path = folder.adopt(received(folder), BLOB)
    file, above = path.stat().st_ino, path.parent.stat().st_ino
    assert disk == [("sync", file), ("sync", folder.blobs.stat().st_ino), ("rename", file), ("sync", above)]


def test_a_blob_that_is_here_is_synced_again(folder: ContentFolder, disk: list[tuple[str, int]]) -> None:
    """The process that put the blob there may have died before the blob's name was on the disk."""
    path = folder.adopt(received(folder), BLOB)
    disk.clear()
    again = received(folder)
    assert folder.adopt(again, BLOB) == path
    assert not again.exists()
    assert disk == [("sync", path.parent.stat().st_ino)]


def test_a_blob_that_was_cut_short_is_replaced(folder: ContentFolder) -> None:
    path = folder.adopt(received(folder), BLOB)
    path.write_bytes(b"wei")
    assert not folder.holds(BLOB)
    assert folder.adopt(received(folder), BLOB).read_bytes() == b"weights"


def test_what_is_not_there_is_not_adopted(folder: ContentFolder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.adopt(folder.partial_path("key"), BLOB)
    assert not folder.is_sound(BLOB.sha256)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_hash_never_becomes_a_path(folder: ContentFolder, sha256: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        BlobRef(sha256, 1)
    with pytest.raises(ValueError, match="no SHA-256"):
        folder.path(sha256)


def test_a_file_is_known_by_size_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not has_content(path, BLOB)
    for content, equal in ((b"weights", True), (b"w3ights", False), (b"weight", False)):
        path.write_bytes(content)
        assert has_content(path, BLOB) == equal
        assert (ref_of_file(path) == BLOB) == equal
        assert hash_file(path) == hashlib.sha256(content).hexdigest()


def test_a_file_is_read_in_ranges_after_it_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with FileRanges(path) as file:
        path.unlink()
        assert file.size_bytes == 10
        assert [file.read(offset, 4) for offset in (8, 0, 10)] == [b"89", b"0123", b""]
    with pytest.raises(ValueError, match="closed"):
        file.read(0, 1)


def test_a_blob_that_was_adopted_is_not_read_again_unless_somebody_wrote_to_it(
    folder: ContentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    hashed = content_folder.hash_file
    monkeypatch.setattr(content_folder, "hash_file", lambda path: read.append(path) or hashed(path))
    path = folder.adopt(received(folder), BLOB)
    assert folder.is_sound(BLOB.sha256)
    assert not read
    path.write_bytes(b"wEights")  # at once, and of the same size
    assert not folder.is_sound(BLOB.sha256)
    path.write_bytes(b"weights")
    assert ContentFolder(folder.blobs.parent).is_sound(BLOB.sha256)  # another process knows nothing of it
    assert read == [path, path]
    assert folder.adopt(received(folder), BLOB) == path  # what is there may be damaged
    assert folder.is_sound(BLOB.sha256)
    assert len(read) == 3
    path.unlink()
    assert not folder.is_sound(BLOB.sha256)
