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
