"""A folder in which each file is named by its content: what the coordinator's store and an agent's cache share.

    root/sha256/ab/abcdef...   blobs: complete, synced, never changed
    root/partial/<key>         files being received

All calls block on the disk. Processes that share a folder lock it; see `coordinator.store.directory_blob_store`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef, checked_sha256
from fedgalore.process.faults import Fault, reach

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")


class ContentFolder:
    """Where blobs and partial files lie below `root`, and how a file becomes a blob."""

    def __init__(self, root: Path) -> None:
        """Makes the folders.

        Raises:
            OSError: they cannot be made.
        """
        self.blobs = root / "sha256"
        self.partial = root / "partial"
        for folder in (self.blobs, self.partial):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob lies if it is here; read only.

        Raises:
            ValueError: `sha256` is not 64 lower-case hexadecimal digits.
        """
        return self.blobs / sha256[:2] / checked_sha256(sha256)

    def holds(self, blob: BlobRef) -> bool:
        """Whether the blob is here at its size; its content is not read."""
        return _has_size(self.path(blob.sha256), blob.size_bytes)

    def is_sound(self, sha256: str) -> bool:
        """Reads a blob through; whether it is here and its content is its name's.

        Raises:
            OSError: it is here and cannot be read.
        """
        try:
            return hash_file(self.path(sha256)) == sha256
        except FileNotFoundError:
            return False

    def adopt(self, file: Path, blob: BlobRef) -> Path:
        """Makes a blob of a complete file below `root` whose hash is known; the blob's path. The file is gone.

        The blob survives a power cut, and counts as used now. A kill between any two steps leaves the file where it
        was, or the whole blob.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the disk refuses.
        """
        path = self.path(blob.sha256)
        if self.holds(blob):
            os.utime(path)
            file.unlink()
        else:
            durable.sync(file)
            durable.make_folder(path.parent)
            reach(Fault.BLOB_SYNCED)
            file.replace(path)
            os.utime(path)
            reach(Fault.BLOB_NAMED)
        durable.sync(path.parent)  # of a blob that was there, too: who put it may not have come so far
        return path

    def partial_path(self, key: str) -> Path:
        """Where the file of this key is received.

        Raises:
            ValueError: the key does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a key for a partial file: {key!r}")
        return self.partial / key

    def partial_keys(self) -> list[str]:
        """Keys of the partial files that are here, sorted."""
        return sorted(entry.name for entry in self.partial.iterdir())


def hash_file(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ref_of_file(path: Path) -> BlobRef:
    """The name of a file by its content, which is read through.

    Raises:
        OSError: it cannot be read.
    """
    return BlobRef(hash_file(path), path.stat().st_size)


def has_content(path: Path, blob: BlobRef) -> bool:
    """Whether the file is there and its content is the blob's; it is read only if its size is.

    Raises:
        OSError: it is there and cannot be read.
    """
    return _has_size(path, blob.size_bytes) and hash_file(path) == blob.sha256


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size_bytes
    except FileNotFoundError:  # deleted between the two looks
        return False
