"""A folder of files that are named by their content. The coordinator's store and an agent's cache share it.

    root/sha256/ab/abcdef...   blobs: complete, synced, never changed
    root/partial/<key>         files being received

All calls block on the disk. Processes that share a folder have to lock it: see
`coordinator.store.directory_blob_store`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef, checked_sha256
from fedgalore.process.faults import Fault, reach

TRUSTED_S = 600.0  # for so long a blob that this process has hashed counts as read through; disks do decay
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")


class ContentFolder:
    """The paths of blobs and partial files below `root`, and the way from a file to a blob."""

    def __init__(self, root: Path) -> None:
        """Creates the folders.

        Raises:
            OSError: a folder cannot be created.
        """
        self.blobs = root / "sha256"
        self.partial = root / "partial"
        for folder in (self.blobs, self.partial):
            folder.mkdir(parents=True, exist_ok=True)
        self._adopted: dict[str, tuple[int, float]] = {}  # by hash: the time that was put on the file, and when

    def path(self, sha256: str) -> Path:
        """The path of the blob, be it in the folder or not. A blob's file is read only.

        Raises:
            ValueError: `sha256` is not 64 lower-case hexadecimal digits.
        """
        return self.blobs / sha256[:2] / checked_sha256(sha256)

    def holds(self, blob: BlobRef) -> bool:
        """Whether the blob is in the folder at its size. Its content is not read."""
        return _has_size(self.path(blob.sha256), blob.size_bytes)

    def is_sound(self, sha256: str) -> bool:
        """Reads a blob through. Whether it is in the folder and its content has the hash that names it.

        A blob that this object has lately adopted is not read if nobody has written to it since.

        Raises:
            OSError: the blob is there and cannot be read.
        """
        path, (stamp, at) = self.path(sha256), self._adopted.get(sha256, (0, 0.0))
        try:
            if time.monotonic() - at < TRUSTED_S and path.stat().st_mtime_ns == stamp:
                return True
            return hash_file(path) == sha256
        except FileNotFoundError:
            return False

    def adopt(self, file: Path, blob: BlobRef) -> Path:
        """Turns a complete file below `root`, whose hash the caller has computed, into a blob. Returns the blob's path.

        When the call returns, the file is gone from its path, and the blob survives a power cut and counts as used now.
        A kill between any two steps leaves the file as it was, or the whole blob.

        Raises:
            FileNotFoundError: the file does not exist.
            OSError: the disk refuses.
        """
        path = self.path(blob.sha256)
        if self.holds(blob):
            os.utime(path)  # its content may be another by now: it has to be read
            file.unlink()
            durable.sync(path.parent)  # the process that put it may have died before
        else:
            place(file, path)
            self._put_time_on(path)
        return path

    def _put_time_on(self, path: Path) -> None:
        """Marks a new blob as used now, by a time that no write can give it again: the kernel's are coarser."""
        now, since = time.time_ns(), time.monotonic()
        os.utime(path, ns=(now, now))
        lately = {name: entry for name, entry in self._adopted.items() if since - entry[1] < TRUSTED_S}
        self._adopted = lately | {path.name: (path.stat().st_mtime_ns, since)}

    def partial_path(self, key: str) -> Path:
        """The path at which the file of this key is received.

        Raises:
            ValueError: the key does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
        """
        return self.partial / checked_key(key)

    def partial_keys(self) -> list[str]:
        """Keys of all partial files, sorted."""
        return sorted(entry.name for entry in self.partial.iterdir())


def checked_key(key: str) -> str:
    """The key of a partial file, fit to become part of a path.

    Raises:
        ValueError: it does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key for a partial file")
    return key


def place(file: Path, path: Path) -> None:
    """Gives a complete file its name, at which it survives a power cut and counts as used now.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the disk refuses.
    """
    durable.sync(file)
    durable.make_folder(path.parent)
    reach(Fault.BLOB_SYNCED)
    file.replace(path)
    os.utime(path)
    reach(Fault.BLOB_NAMED)
    durable.sync(path.parent)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in lower-case hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ref_of_file(path: Path) -> BlobRef:
    """Reads a file through and names it by its content.

    Raises:
        OSError: the file cannot be read.
    """
    return BlobRef(hash_file(path), path.stat().st_size)


def has_content(path: Path, blob: BlobRef) -> bool:
    """Whether the file exists and has the blob's content. It is read only if it has the blob's size.

    Raises:
        OSError: the file exists and cannot be read.
    """
    return _has_size(path, blob.size_bytes) and hash_file(path) == blob.sha256


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size_bytes
    except FileNotFoundError:  # deleted between the two looks
        return False
