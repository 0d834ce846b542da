"""Blobs that are kept as parts of other blobs: a list of the parts, and the bytes that no other blob holds.

Version 0 of a model has the base model's numbers, in another order and often in another format. So it is stored as
what the base model lacks. This is the one place that knows where its bytes lie: who reads such a blob sees a file like
others.

root/composed/ab/abcdef...   named as the blob that it tells: a length of 8 bytes, JSON, the bytes of its own
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from coordinator.state.errors import BlobNotFound
from coordinator.store.numbers import WIDTHS, in_format
from fedgalore.process.blob_ref import BlobRef, checked_sha256
from fedgalore.process.content_folder import ContentFolder, place
from fedgalore.process.ranges import FileRanges, RangeReader, read_all

LENGTH_BYTES = 8
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Copy:
    """`size_bytes` bytes of a file from `start` on, which are those of the blob `source` from `offset` on.

    Where `stored` and `wanted`, safetensors' names of formats, differ, they are its numbers in another format.
    """

    start: int
    size_bytes: int
    source: BlobRef
    offset: int
    stored: str
    wanted: str


class _Part(NamedTuple):
    """The next `size_bytes` bytes of a blob; `file`: number of a source, 0 for the bytes of its own."""

    size_bytes: int
    file: int
    offset: int
    stored: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class _Recipe:
    size_bytes: int
    sources: tuple[BlobRef, ...]
    parts: tuple[_Part, ...]


class Composed:
    """A `RangeReader` of such a blob. Its sources are open, so that it can be read also after they were deleted."""

    path: Path | None = None

    def __init__(self, path: Path, open_source: Callable[[str], RangeReader]) -> None:
        """Reads the list of parts.

        Raises:
            FileNotFoundError: there is no such file.
            BlobNotFound: a source is missing.
            ValueError: the file is damaged.
            OSError: a file cannot be read.
        """
        with ExitStack() as opened:
            own = FileRanges(path)
            opened.callback(own.close)
            recipe, self._own_start = _read_recipe(own)
            self._files: list[RangeReader] = [own]
            for source in recipe.sources:
                file = open_source(source.sha256)
                opened.callback(file.close)
                self._files.append(file)
            self._opened = opened.pop_all()
        self.size_bytes = recipe.size_bytes
        self._parts = recipe.parts
        self._starts = [0, *accumulate(part.size_bytes for part in recipe.parts)][:-1]

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size_bytes)
        pieces = []
        index = bisect_right(self._starts, offset) - 1
        while offset < end:
            part, first = self._parts[index], offset - self._starts[index]
            count = min(end - offset, part.size_bytes - first)
            pieces.append(self._read_part(part, first, count))
            offset, index = offset + count, index + 1
        return b"".join(pieces)

    def close(self) -> None:
        self._opened.close()

    def _read_part(self, part: _Part, first: int, count: int) -> bytes:
        """Bytes `first` and following of a part."""
        start = part.offset + (0 if part.file else self._own_start)
        if part.stored == part.wanted:
            return read_all(self._files[part.file], start + first, count)
        width, wide = WIDTHS[part.stored], WIDTHS[part.wanted]
        number, last = first // wide, -(-(first + count) // wide)  # whole numbers around the bytes
        data = read_all(self._files[part.file], start + number * width, (last - number) * width)
        told = in_format(data, part.stored, part.wanted)
        return told[first - number * wide :][:count]


class ComposedFolder:
    """The composed blobs below a root. Their sources are whole blobs of `content`."""

    def __init__(self, root: Path, content: ContentFolder) -> None:
        """Creates the folder.

        Raises:
            OSError: it cannot be created.
        """
        self.blobs = root
        self._content = content
        root.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the list of a blob's parts lies, be it there or not.

        Raises:
            ValueError: `sha256` is no hash.
        """
        return self.blobs / sha256[:2] / checked_sha256(sha256)

    def open(self, sha256: str) -> Composed:
        """The blob.

        Raises:
            FileNotFoundError, BlobNotFound, ValueError, OSError: as `Composed` and `path`.
        """
        return Composed(self.path(sha256), self._open_whole)

    def size_bytes(self, sha256: str) -> int | None:
        """Of the blob that the file tells; None where it, or one of its sources, is missing or damaged."""
        try:
            recipe = _recipe_of(self.path(sha256))
        except (OSError, ValueError):
            return None
        return recipe.size_bytes if all(map(self._content.holds, recipe.sources)) else None

    def sources(self, path: Path) -> set[str]:
        """Hashes of what a file here is made of; none of a file that is damaged or gone."""
        try:
            return self.read_sources(path)
        except (OSError, ValueError):
            return set()

    def read_sources(self, path: Path) -> set[str]:
        """Hashes of what a file here is made of.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        return {source.sha256 for source in _recipe_of(path).sources}

    def is_sound(self, sha256: str) -> bool:
        """Reads a blob through. Whether its content has the hash that names it."""
        digest = hashlib.sha256()
        try:
            with closing(self.open(sha256)) as blob:
                for offset in range(0, blob.size_bytes, BLOCK_BYTES):
                    digest.update(blob.read(offset, BLOCK_BYTES))
        except (OSError, ValueError, BlobNotFound):
            return False
        return digest.hexdigest() == sha256

    def write(self, draft: Path, path: Path, copies: Iterable[Copy]) -> bool:
        """Writes the list of a file's parts to `draft`, if any of the copies is one: each is compared.

        Raises:
            BlobNotFound: a source is missing.
            OSError: a file cannot be read, or the disk refuses.
        """
        with FileRanges(path) as file, ExitStack() as opened:
            readers: dict[BlobRef, RangeReader] = {}
            true: list[Copy] = []
            for copy in sorted(copies, key=lambda copy: copy.start):
                if not self._content.holds(copy.source):
                    continue
                if copy.source not in readers:
                    readers[copy.source] = self._open_whole(copy.source.sha256)
                    opened.callback(readers[copy.source].close)
                if _is_true(copy, file, readers[copy.source]):
                    true.append(copy)
            if true:
                _write_recipe(draft, file, true)
        return bool(true)

    def adopt(self, draft: Path, sha256: str) -> None:
        """Gives a list of parts its name, as `ContentFolder.adopt`. The caller keeps a sweep away.

        Raises:
            BlobNotFound: a source was deleted meanwhile.
            OSError: the disk refuses.
        """
        self._touch_sources(draft)
        place(draft, self.path(sha256))

    def touch(self, sha256: str) -> None:
        """Makes a blob that is here count as used now.

        Raises:
            BlobNotFound, OSError: as `adopt`.
        """
        self._touch_sources(self.path(sha256))
        os.utime(self.path(sha256))

    def _touch_sources(self, path: Path) -> None:
        for sha256 in self.sources(path):
            try:
                os.utime(self._content.path(sha256))
            except FileNotFoundError as error:
                raise _missing(sha256) from error

    def _open_whole(self, sha256: str) -> FileRanges:
        try:
            return FileRanges(self._content.path(sha256))
        except FileNotFoundError as error:
            raise _missing(sha256) from error


def _is_true(copy: Copy, file: RangeReader, source: RangeReader) -> bool:
    """Whether the file has these bytes of the source."""
    width, wide = WIDTHS.get(copy.stored, 1), WIDTHS.get(copy.wanted, 1)
    if copy.offset + copy.size_bytes // wide * width > source.size_bytes:
        return False
    for start in range(0, copy.size_bytes, BLOCK_BYTES):  # which is a multiple of every width
        count = min(BLOCK_BYTES, copy.size_bytes - start)
        data = read_all(source, copy.offset + start // wide * width, count // wide * width)
        if copy.stored != copy.wanted:
            data = in_format(data, copy.stored, copy.wanted)
        if data != read_all(file, copy.start + start, count):
            return False
    return True


def _write_recipe(draft: Path, file: RangeReader, copies: Sequence[Copy]) -> None:
    sources = list(dict.fromkeys(copy.source for copy in copies))
    parts: list[_Part] = []
    gaps: list[tuple[int, int]] = []
    position = own = 0
    for copy in (*copies, None):
        start = file.size_bytes if copy is None else copy.start
        if start > position:
            gaps.append((position, start))
            parts.append(_Part(start - position, 0, own))
            own += start - position
        if copy is not None:
            number = sources.index(copy.source) + 1
            same = copy.stored == copy.wanted
            parts.append(_Part(copy.size_bytes, number, copy.offset, *(() if same else (copy.stored, copy.wanted))))
            position = copy.start + copy.size_bytes
    document = {"size_bytes": file.size_bytes, "sources": [astuple(source) for source in sources], "parts": parts}
    text = json.dumps(document, separators=(",", ":")).encode()
    with draft.open("wb") as target:
        target.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for start, stop in gaps:
            target.writelines(_blocks(file, start, stop))


def _blocks(file: RangeReader, start: int, stop: int) -> Iterator[bytes]:
    for offset in range(start, stop, BLOCK_BYTES):
        yield read_all(file, offset, min(BLOCK_BYTES, stop - offset))


def _recipe_of(path: Path) -> _Recipe:
    with FileRanges(path) as file:
        return _read_recipe(file)[0]


def _read_recipe(file: RangeReader) -> tuple[_Recipe, int]:
    """The recipe, and where the file's own bytes start.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    length = int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    try:
        document = json.loads(file.read(LENGTH_BYTES, min(length, file.size_bytes)))
        sources = tuple(BlobRef(*source) for source in document["sources"])
        parts = tuple(_Part(*part) for part in document["parts"])
        for source in sources:
            checked_sha256(source.sha256)
        return _Recipe(document["size_bytes"], sources, parts), LENGTH_BYTES + length
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the list of a blob's parts is damaged ({error})") from error


def _missing(sha256: str) -> BlobNotFound:
    return BlobNotFound(f"blob {sha256}, which others are made of, is missing")
