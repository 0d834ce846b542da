"""Text files of a site, packed by gzip or not: read piece by piece, as UTF-8, with where each line begins."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fedgalore.data.errors import DataError

LONGEST = 64 * 2**20  # bytes of a line, a field or a record: more would not fit beside a model
_PIECE = 2**20
_MOST_TIMES, _UNPACKED = 200, 64 * 2**20  # what a packed file may become: times its size, or bytes
_UTF8 = "save the file as UTF-8"
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_AFTER_RETURN = re.compile(r"(?<=\r)(?=[^\n])")


class Lines:
    """The lines of a file with their ends. While one is at hand: its `number` from 1, its bytes from `start` to `end`.

    Iterating raises:
        DataError: the file is no UTF-8, is damaged, has a line beyond `LONGEST`, or unpacks to far more than its size.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = self.start = self.end = 0

    def __iter__(self) -> Iterator[str]:
        with _opened(self.path) as file:
            read = _reader(self.path, file, lambda: file.readline(LONGEST + 1))
            for line in read:
                yield from self._parts(line)

    def _parts(self, line: bytes) -> Iterator[str]:
        """One line, or many where a carriage return alone ends them."""
        self.number += 1
        if len(line) > LONGEST:
            raise DataError(
                f"a line of more than {LONGEST >> 20} MiB", path=self.path, row=self.number, remedy="shorten it"
            )
        if self.number == 1:
            _refuse_marks(self.path, line)
            mark = len(codecs.BOM_UTF8) if line.startswith(codecs.BOM_UTF8) else 0
            self.end, line = mark, line[mark:]
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte 0x{line[error.start]:02x} at place {error.start + 1} of the line)"
            raise DataError(problem, path=self.path, row=self.number, remedy=_UTF8) from error
        _refuse_nul(self.path, text, self.number)
        parts = _AFTER_RETURN.split(text) if "\r" in text else [text]
        for count, part in enumerate(parts):
            self.number += count > 0
            self.start, self.end = self.end, self.end + (len(part) if part.isascii() else len(part.encode()))
            yield part


def pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces of about a MiB, whatever its lines are.

    Raises:
        DataError, OSError: as `Lines`, but for the length of a line.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    place = 0
    with _opened(path) as file:
        for piece in _reader(path, file, lambda: file.read(_PIECE)):
            if place == 0:
                _refuse_marks(path, piece)
            try:
                text = decoder.decode(piece)
            except UnicodeDecodeError as error:
                where = place + error.start - (len(error.object) - len(piece)) + 1  # what was left over comes first
                problem = f"not UTF-8 (byte 0x{error.object[error.start]:02x} at place {where} of the file)"
                raise DataError(problem, path=path, remedy=_UTF8) from error
            _refuse_nul(path, text)
            yield text
            place += len(piece)
        if decoder.getstate()[0]:
            raise DataError("not UTF-8 (its last letter is cut)", path=path, remedy="copy the file again")


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _reader(path: Path, file: BinaryIO, read: Callable[[], bytes]) -> Iterator[bytes]:
    """What `read` gives, to the end; what unpacks without end is refused in time."""
    packed = path.suffix.lower() == ".gz"
    most = max(_UNPACKED, _MOST_TIMES * path.stat().st_size)
    place = 0
    try:
        while found := read():
            place += len(found)
            if packed and place > most:
                raise DataError(
                    f"unpacks to more than {_MOST_TIMES} times its size", path=path, remedy="unpack it, and look at it"
                )
            yield found
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"no gzip file, or damaged ({error})", path=path, remedy="pack or copy it again") from error


def _refuse_nul(path: Path, text: str, row: int | None = None) -> None:
    if "\0" in text:
        raise DataError("holds a NUL byte, as UTF-16 does", path=path, row=row, remedy=_UTF8)


def _refuse_marks(path: Path, beginning: bytes) -> None:
    for mark, name in _MARKS.items():
        if beginning.startswith(mark):
            raise DataError(f"{name}, not UTF-8", path=path, row=1, remedy=f'{_UTF8}; Excel calls it "CSV UTF-8"')
