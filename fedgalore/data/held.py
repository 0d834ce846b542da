"""Examples that are not held in memory: each is read from a file when it is asked for."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, overload

from fedgalore.data.errors import DataError

Example = dict[str, Any]


class Unheld(Sequence[Example]):
    """Examples that cost reading a file to look through."""

    def __init__(self) -> None:
        self.passed: set[Hashable] = set()  # by whom they were looked through, and found fit


class Indexed(Unheld):
    """Examples in a file of bytes, of which only the places are held: 8 bytes an example."""

    def __init__(self, file: IO[bytes], path: Path, starts: array[int], read: Callable[[int, bytes], Example]) -> None:
        """`read` makes an example of its number and its bytes, which may end in white space. `path`: for messages."""
        super().__init__()
        self._file, self._path, self._starts, self._read = file, path, starts, read
        self._state = self._look()
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """Raises:
        DataError: the file was changed meanwhile.
        """
        if isinstance(index, slice):
            return Chosen(self, range(len(self))[index])
        number = range(len(self))[index]
        if self._look() != self._state:
            raise DataError("was changed while it was in use", path=self._path, remedy="start again, to read it anew")
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self) else self._state[0]
        return self._read(number, os.pread(self._file.fileno(), end - start, start))

    def _look(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns


class Chosen(Unheld):
    """Some of a sequence's examples, in an order of their own."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int]) -> None:
        super().__init__()
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return Chosen(self._examples, self._indices[index])
        return self._examples[self._indices[index]]


def spooled(examples: Iterable[Example], path: Path, same: Example) -> Indexed:
    """Writes examples into a temporary file that nobody else sees, and which is gone with the sequence.

    Args:
        path: where they come from.
        same: what all of them have; it is held once.

    Raises:
        OSError: there is no room where TMPDIR says.
    """
    file = tempfile.TemporaryFile(prefix="fedgalore-")  # noqa: SIM115, it is open as long as the sequence lives
    starts = array("Q")
    try:
        for example in examples:
            starts.append(file.tell())
            line = json.dumps({key: value for key, value in example.items() if key not in same}, ensure_ascii=False)
            file.write(line.encode() + b"\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return Indexed(file, path, starts, lambda _, line: json.loads(line) | same)
