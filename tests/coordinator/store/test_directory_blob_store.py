"""The blob store in a directory: where its files lie, and which files dead processes leave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.blob_store import GRACE_S
from coordinator.store.directory_blob_store import DirectoryBlobStore
from tests.builders import put_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def blobs(root: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(root)


def files(root: Path) -> list[str]:
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return sorted(str(path.relative_to(root)) for path in paths)


def test_a_blob_lies_under_its_hash_and_nothing_else_is_left(blobs: DirectoryBlobStore, root: Path) -> None:
    blob = put_bytes(blobs, b"weights")
    put_bytes(blobs, b"weights")
    assert files(root) == [f"sha256/{blob.sha256[:2]}/{blob.sha256}"]
    assert (root / files(root)[0]).read_bytes() == b"weights"


def test_the_id_of_the_state_store_is_a_file(blobs: DirectoryBlobStore, root: Path) -> None:
    blobs.bind("ours")
    assert files(root) == ["store-id"]
    assert (root / "store-id").read_text() == "ours\n"


def test_scratch_files_leave_nothing_but_the_blob(blobs: DirectoryBlobStore, root: Path) -> None:
    with blobs.scratch_folder() as folder:
        (folder / "keep").write_bytes(b"keep")
        (folder / "drop").write_bytes(b"drop")
        blob = blobs.put_file(folder / "keep", move=True)
    assert files(root) == [f"sha256/{blob.sha256[:2]}/{blob.sha256}"]


def test_old_scratch_goes_when_its_owner_is_gone(blobs: DirectoryBlobStore, root: Path) -> None:
    left = root / "scratch" / "left"
    left.mkdir()
    (left / "blob").write_bytes(b"half")
    with blobs.scratch_folder() as folder:
        (folder / "export").write_bytes(b"an aggregation that takes hours")
        blobs.sweep((), (), time.time())
        assert left.exists()
        blobs.sweep((), (), time.time() + GRACE_S + 1)
        assert not left.exists()
        assert (folder / "export").exists()
    assert list((root / "scratch").iterdir()) == []


def test_scratch_that_a_network_disk_keeps_is_swept_later(
    blobs: DirectoryBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = os.rmdir

    def refused(path: str | Path, **options: Any) -> None:  # as of a folder in which a mapped file was renamed
        if str(path) == "files":
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        remove(path, **options)

    with monkeypatch.context() as disk:
        disk.setattr(os, "rmdir", refused)
        with blobs.scratch_folder():
            pass
    assert len(list((root / "scratch").iterdir())) == 1
    blobs.sweep((), (), time.time() + GRACE_S + 1)
    assert list((root / "scratch").iterdir()) == []


def test_scratch_of_a_killed_process_goes(blobs: DirectoryBlobStore, root: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from coordinator.store.directory_blob_store import DirectoryBlobStore\n"
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


def test_the_check_passes_on_a_sound_store_and_fails_on_a_broken_store(blobs: DirectoryBlobStore, root: Path) -> None:
    blobs.check()
    assert files(root) == []
    (root / "scratch").rmdir()
    with pytest.raises(OSError, match="scratch"):
        blobs.check()
