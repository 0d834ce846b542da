"""Files that are read in ranges, from a disk or from another store."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol


class RangeReader(Protocol):
    """An open file of which any part can be read, from several threads at once."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def path(self) -> Path | None:
        """Where the file lies on this machine, to be mapped; None where it can only be read."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; no bytes at the end of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is closed.
        """

    def close(self) -> None:
        """Lets go of the file."""


class FileRanges:
    """A `RangeReader` of a file on this machine, also after the file was deleted; a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            OSError: the file does not exist, or cannot be read.
        """
        self.path: Path | None = path
        self._file = path.open("rb", buffering=0)
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FileRanges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_all(file: RangeReader, offset: int, length: int) -> bytes:
    """These bytes of a file, however many a single read may give.

    Raises:
        OSError: the file ends before, or cannot be read.
    """
    pieces = []
    while length:
        piece = file.read(offset, length)
        if not piece:
            raise OSError(f"a file ended {length} bytes early")
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
