"""Folders as tars, streamed: their size is known before the first byte, and no file of them is ever held in memory.

The files that an archive reads are opened at the start: what is superseded and collected meanwhile is still sent to
the end.
"""

from __future__ import annotations

import os
import tarfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion

BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 2**20
CARD = "fedgalore.json"
MAX_NAME_BYTES = 36  # with a folder of at most 63 and a slash, a tar header holds the whole path


class ArchiveError(RuntimeError):
    """The stored model and the stored weights do not fit together."""


class Part(Protocol):
    """Some bytes of a file; how many is known before they are."""

    @property
    def size_bytes(self) -> int: ...

    def read(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Held:
    """Bytes at hand."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self) -> Iterator[bytes]:
        yield self.data


@dataclass(frozen=True)
class Piece:
    """`size_bytes` bytes of an open file from `offset` on."""

    descriptor: int
    offset: int
    size_bytes: int

    def read(self) -> Iterator[bytes]:
        offset, end = self.offset, self.offset + self.size_bytes
        while offset < end:
            chunk = os.pread(self.descriptor, min(end - offset, CHUNK_BYTES), offset)
            if not chunk:
                raise ArchiveError(f"a file of the model ended {end - offset} bytes early")
            yield chunk
            offset += len(chunk)


@dataclass(frozen=True)
class Member:
    """One file of an archive: its parts in their order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


class Archive:
    """The tar of a folder that belongs to one version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, file_name: str) -> None:
        """An empty one, to be filled by `_add`."""
        self.file_name = file_name
        self._folder = job.parsed.name
        self._mtime = int(job.created_at)
        self._members: list[Member] = []
        self._files = ExitStack()
        # Whoever streams it may go away before the first byte, so the files are closed with the archive.
        weakref.finalize(self, self._files.close)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tar."""
        return sum(BLOCK + _padded(member.size_bytes) for member in self._members) + BLOCK + 2 * BLOCK

    def __iter__(self) -> Iterator[bytes]:
        """The tar's bytes; blocks on the disk."""
        yield self._head(self._folder, 0, tarfile.DIRTYPE, 0o755)
        for member in self._members:
            size = member.size_bytes
            yield self._head(f"{self._folder}/{member.name}", size, tarfile.REGTYPE, 0o644)
            for part in member.parts:
                yield from part.read()
            yield bytes(_padded(size) - size)
        yield bytes(2 * BLOCK)

    def _add(self, name: str, *parts: Part) -> None:
        path = PurePosixPath(name)
        taken = name in {member.name for member in self._members}
        if path.is_absolute() or ".." in path.parts or taken or len(name.encode()) > MAX_NAME_BYTES:
            raise ArchiveError(f"{name!r} cannot be a file of this archive")
        self._members.append(Member(name, parts))

    def _open(self, path: Path) -> int:
        """An open file's descriptor, as long as this archive lives."""
        descriptor = os.open(path, os.O_RDONLY)
        self._files.callback(os.close, descriptor)
        return descriptor

    def _head(self, name: str, size_bytes: int, kind: bytes, mode: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.mode, info.mtime = size_bytes, kind, mode, self._mtime
        # GNU: sizes past 8 GiB fit the one block that `size_bytes` counts on; `_add` keeps paths short.
        return info.tobuf(format=tarfile.GNU_FORMAT)


def card(job: Job, version: ModelVersion) -> dict[str, Any]:
    """What `fedgalore.json` tells of the version in every archive."""
    spec = job.parsed
    return {
        "job": job.id,
        "name": spec.name,
        "model_version": version.version,
        "rounds": spec.rounds.count,
        "method": spec.method.model_dump(mode="json"),
    }


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK
