"""A partial file of the directory blob store, with a lock so that no two openers write to it.

The system drops the lock with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coordinator.store.blob_store import PartialInUse
from fedgalore.process.blob_ref import BlobRef

BLOCK_BYTES = 2**20  # read at once
EARLY_BYTES = 2**23  # written before the disk is told


class DirectoryPartialFile:
    """`PartialFile` in a directory. The protocol's docstrings say what the methods do."""

    def __init__(self, path: Path, blob: BlobRef, adopt: Callable[[Path, BlobRef], None]) -> None:
        """Opens and locks the file, or begins it.

        Args:
            adopt: turns a complete file into a blob.

        Raises:
            PartialInUse: another opener has the file.
            OSError: the disk refuses.
        """
        self._path = path
        self._blob = blob
        self._adopt = adopt
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = self.is_in_place()  # False if the holder before adopted or discarded the file
        except BlockingIOError:
            is_ours = False
        if not is_ours:
            self._file.close()
            raise PartialInUse(path.name)
        self._size_bytes = self._on_its_way = os.fstat(self._file.fileno()).st_size

    def received(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield block

    def append(self, data: bytes) -> None:
        if self._size_bytes + len(data) > self._blob.size_bytes:  # the file may be a blob already
            raise ValueError(f"more than the {self._blob.size_bytes} bytes of blob {self._blob.sha256}")
        self._file.write(data)
        self._file.flush()
        self._size_bytes += len(data)
        if self._size_bytes - self._on_its_way >= EARLY_BYTES:
            # begins to write to the disk what is new, so that little is left to wait for at the end
            os.posix_fadvise(self._file.fileno(), self._on_its_way, 0, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self._size_bytes

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        self._check_in_place()
        yield self._path

    def adopt(self) -> None:
        self._check_in_place()
        self._adopt(self._path, self._blob)

    def is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def discard(self) -> None:
        if self.is_in_place():
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which `append` has raised already
            self._file.close()

    def _check_in_place(self) -> None:
        if not self.is_in_place():
            raise FileNotFoundError(f"the partial file {self._path.name} was discarded")
