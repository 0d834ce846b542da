"""Folders as tars, streamed. The size of a tar is known before its first byte; no file of it is held in memory. It has
the same bytes whenever it is read, so that a part of it that was read later fits what was read before.

An archive opens its blobs at the start, so that it is complete also if a sweep deletes them while it is sent.
"""

from __future__ import annotations

import hashlib
import tarfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from coordinator.store.numbers import WIDTHS, in_format
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import RangeReader
from fedgalore.version import __version__

BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 2**20
CARD = "fedgalore.json"
MAX_NAME_BYTES = 36  # with a folder of at most 63 and a slash, a tar header holds the whole path


class ArchiveError(RuntimeError):
    """The stored model and the stored weights do not fit together."""


class ByteSource(Protocol):
    """Some bytes of a file, of which the number is known before the bytes are."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, skip: int = 0) -> Iterator[bytes]:
        """Its bytes without the first `skip`; an empty piece stands for some of those."""


@dataclass(frozen=True)
class Held:
    """Bytes in memory."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, skip: int = 0) -> Iterator[bytes]:
        yield self.data[skip:]


@dataclass(frozen=True)
class Piece:
    """`size_bytes` bytes of an open blob from `offset` on."""

    blob: RangeReader
    offset: int
    size_bytes: int

    def read(self, skip: int = 0) -> Iterator[bytes]:
        offset, end = self.offset + skip, self.offset + self.size_bytes
        while offset < end:
            chunk = self.blob.read(offset, min(end - offset, CHUNK_BYTES))
            if not chunk:
                raise ArchiveError(f"a file of the model ended {end - offset} bytes early")
            yield chunk
            offset += len(chunk)


@dataclass(frozen=True)
class Joined:
    """Bytes of several sources, one after the other."""

    parts: tuple[ByteSource, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def read(self, skip: int = 0) -> Iterator[bytes]:
        return joined(self.parts, skip)


@dataclass(frozen=True)
class Converted:
    """The numbers of another source in another format, a chunk at a time."""

    source: ByteSource
    stored: str  # format of the source
    wanted: str

    @property
    def size_bytes(self) -> int:
        return self.source.size_bytes // WIDTHS[self.stored] * WIDTHS[self.wanted]

    def read(self, skip: int = 0) -> Iterator[bytes]:
        skipped = skip // WIDTHS[self.wanted]  # numbers
        return behind(self._numbers_from(skipped), skip - skipped * WIDTHS[self.wanted])

    def _numbers_from(self, number: int) -> Iterator[bytes]:
        width, rest = WIDTHS[self.stored], b""
        for chunk in self.source.read(number * width):
            data = rest + chunk
            whole = len(data) - len(data) % width
            rest = data[whole:]
            yield in_format(data[:whole], self.stored, self.wanted)


def behind(chunks: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """The chunks without their first `skip` bytes, as many of them as before."""
    for chunk in chunks:
        yield chunk[skip:]
        skip = max(0, skip - len(chunk))


def joined(sources: Iterable[ByteSource], skip: int) -> Iterator[bytes]:
    """The bytes of several sources without their first `skip`; what lies before is not read."""
    for source in sources:
        if skip < source.size_bytes:
            yield from source.read(skip)
        skip = max(0, skip - source.size_bytes)


@dataclass(frozen=True)
class Member:
    """A file of an archive: its parts in their order."""

    name: str
    parts: tuple[ByteSource, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


class Archive:
    """The tar of a folder that belongs to a version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, file_name: str) -> None:
        """An empty archive, to be filled by `_add`."""
        self.file_name = file_name
        self._folder = job.parsed.name
        self._mtime = int(job.created_at)
        self._members: list[Member] = []
        self._made_of = hashlib.sha256(f"{__version__} {job.id} {file_name} {self._mtime}".encode())
        self._opened = ExitStack()
        weakref.finalize(self, self._opened.close)  # where nobody has come to close it

    def close(self) -> None:
        """Lets go of the blobs; nothing can be read any more. A second time does nothing."""
        self._opened.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tar."""
        return sum(BLOCK + _padded(member.size_bytes) for member in self._members) + BLOCK + 2 * BLOCK

    @property
    def etag(self) -> str:
        """The hash of all that it is made of, in quotes: archives with the same have the same bytes."""
        return f'"{self._made_of.hexdigest()}"'

    def __iter__(self) -> Iterator[bytes]:
        return self.read()

    def read(self, skip: int = 0) -> Iterator[bytes]:
        """The tar's bytes without the first `skip`; an empty piece stands for some of those. Blocks on the disk.

        Raises:
            ArchiveError: a blob ended early.
            OSError: a blob cannot be read.
        """
        return joined(self._sources(), skip)

    def _sources(self) -> Iterator[ByteSource]:
        yield Held(self._head(self._folder, 0, tarfile.DIRTYPE, 0o755))
        for member in self._members:
            size = member.size_bytes
            yield Held(self._head(f"{self._folder}/{member.name}", size, tarfile.REGTYPE, 0o644))
            yield from member.parts
            yield Held(bytes(_padded(size) - size))
        yield Held(bytes(2 * BLOCK))

    def unpack(self, folder: Path, *, with_card: bool = False) -> None:
        """Writes the files into a new folder, without the card unless it is wanted. Blocks on the disk.

        Raises:
            ArchiveError, OSError: as `__iter__`; or the disk is full.
        """
        folder.mkdir()
        for member in self._members:
            if with_card or member.name != CARD:
                with (folder / member.name).open("wb") as file:
                    for part in member.parts:
                        file.writelines(part.read())

    def _add(self, name: str, *parts: ByteSource) -> None:
        path = PurePosixPath(name)
        taken = name in {member.name for member in self._members}
        if path.is_absolute() or ".." in path.parts or taken or len(name.encode()) > MAX_NAME_BYTES:
            raise ArchiveError(f"{name!r} cannot be a file of this archive")
        self._members.append(Member(name, parts))
        self._note(name, *(part.data if isinstance(part, Held) else part.size_bytes for part in parts))

    def _open(self, blobs: BlobStore, sha256: str) -> RangeReader:
        """The blob, open as long as this archive lives.

        Raises:
            BlobNotFound: the store lacks it.
        """
        blob = blobs.open(sha256)
        self._note(sha256)
        self._opened.callback(blob.close)
        return blob

    def _note(self, *facts: object) -> None:
        """What the archive's bytes follow from, beside the code."""
        self._made_of.update(repr(facts).encode())

    def _head(self, name: str, size_bytes: int, kind: bytes, mode: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.mode, info.mtime = size_bytes, kind, mode, self._mtime
        # GNU: sizes past 8 GiB fit the one block that `size_bytes` counts on; `_add` keeps paths short.
        return info.tobuf(format=tarfile.GNU_FORMAT)


def whole_weights(version: ModelVersion) -> BlobRef:
    """The blob of a version's whole weights, which a download needs.

    Raises:
        ArchiveError: they were not made.
    """
    if version.weights is None:
        raise ArchiveError(f"the weights of version {version.version} were not made whole before its download")
    return version.weights


def card(job: Job, version: ModelVersion) -> dict[str, Any]:
    """The facts about the version that `fedgalore.json` holds in every archive."""
    spec = job.parsed
    return {
        "job": job.id,
        "name": spec.name,
        "model_version": version.version,
        "rounds": spec.rounds.count,
        "method": spec.method.model_dump(mode="json"),
        "trains": job.prepared.plan["census"] if job.prepared else None,
        "notes": list(job.prepared.notes) if job.prepared else [],
    }


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK
