"""Copies of a bucket's blobs on this machine, as many as fit: what was used longest ago goes first.

root/ab/abcdef...       a blob, whose content was hashed when it came
root/ab/abcdef....tag   the bucket's tag of the object that it is a copy of

Several processes may share a cache. A file that somebody has open stays readable when it goes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from fedgalore.process.blob_ref import BlobRef, checked_sha256

JUST_USED_S = 60.0  # what was asked for so lately stays: somebody is about to open it
_SHARE = 0.5  # of the cache that a single blob may take
_AFTER = 0.9  # of the cache that is full after a tidying
_GUESS = 0.1  # of the cache that a process fills before it looks again what others have put there


class BlobCache:
    """A folder of at most `most_bytes`, but for what was just used."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        """Creates the folder.

        Raises:
            OSError: it cannot be created.
        """
        self._root = root
        self._most_bytes = most_bytes
        self._room_bytes = 0.0  # until the next look
        root.mkdir(parents=True, exist_ok=True)

    def takes(self, size_bytes: int) -> bool:
        """Whether a blob of this size may lie here."""
        return size_bytes <= _SHARE * self._most_bytes

    def find(self, sha256: str) -> Path | None:
        """The blob's copy, which counts as used now; None where there is none.

        Raises:
            ValueError: `sha256` is no hash.
        """
        path = self._path(sha256)
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except FileNotFoundError:
            return None
        return path

    def tag(self, sha256: str) -> str | None:
        """The tag of the object that the blob is a copy of; None where nobody knows."""
        try:
            return self._tag(self._path(sha256)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def adopt(self, file: Path, blob: BlobRef, tag: str) -> Path | None:
        """Takes a file of this disk, whose content has the blob's hash, and which is gone from its path then.

        Where room is short, what was used longest ago goes. Returns where the file lies; None where it is too large.

        Raises:
            OSError: the disk refuses.
        """
        if not self.takes(blob.size_bytes):
            file.unlink()
            return None
        self._make_room(blob.size_bytes)
        path = self._path(blob.sha256)
        path.parent.mkdir(exist_ok=True)
        self._tag(path).unlink(missing_ok=True)
        file.replace(path)
        os.utime(path)
        self._tag(path).write_text(tag, encoding="utf-8")
        return path

    def drop(self, sha256: str) -> None:
        """Forgets a blob."""
        path = self._path(sha256)
        self._tag(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        self._room_bytes -= size_bytes
        if self._room_bytes > 0:
            return
        files = []
        for path in self._root.glob("??/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix != ".tag":
                    files.append((status.st_atime, status.st_size, path))
        left = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if left + size_bytes <= _AFTER * self._most_bytes or time.time() - used < JUST_USED_S:
                break
            self.drop(path.name)
            left -= size
        self._room_bytes = min(self._most_bytes - left - size_bytes, _GUESS * self._most_bytes)

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / checked_sha256(sha256)

    @staticmethod
    def _tag(path: Path) -> Path:
        return path.with_name(f"{path.name}.tag")
