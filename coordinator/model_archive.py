"""A model version as a tar, streamed: a folder that `from_pretrained` loads, never held in memory.

Its files are opened at the start: a version that is superseded and collected meanwhile is still sent to the end.

The folder is the model as `save_pretrained` wrote it at version 0, with the trained tensors' bytes replaced by those of
the weights file of the version asked for. Offsets do not change, so the size is known before the first byte is read.
"""

from __future__ import annotations

import json
import os
import tarfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from coordinator.blob_store import BlobStore
from coordinator.errors import NotReady
from coordinator.job import Job, ModelVersion
from protos.codec import LENGTH_BYTES, Header, header_length, read_header

BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 2**20
CARD = "fedgalore.json"
MAX_NAME_BYTES = 36  # with a folder of at most 63 and a slash, a tar header holds the whole path


class ArchiveError(RuntimeError):
    """The stored template and the stored weights do not fit together."""


@dataclass(frozen=True)
class Piece:
    """`size_bytes` bytes of an open file from `offset` on."""

    descriptor: int
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Member:
    """One file of the archive, made of bytes at hand or of pieces of files in their order."""

    name: str
    data: bytes
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.data) + sum(piece.size_bytes for piece in self.pieces)


class ModelArchive:
    """The tar of one version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, version: ModelVersion, evaluation: dict[str, Any] | None, blobs: BlobStore) -> None:
        """Reads headers only.

        Args:
            evaluation: what is known of the version's quality, put into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            BlobNotFound: a file of the version is gone from the store.
            ArchiveError: a trained tensor has no place in the template.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        spec = job.parsed
        self.file_name = f"{spec.name}-v{version.version}.tar"
        self._folder = spec.name
        self._mtime = int(job.created_at)
        card = {
            "job": job.id,
            "name": spec.name,
            "model_version": version.version,
            "rounds": spec.rounds.count,
            "method": spec.method.model_dump(mode="json"),
            "evaluation": evaluation,
        }
        self._members = [Member(CARD, json.dumps(card, indent=2).encode() + b"\n", ())]
        self._files = ExitStack()
        # Whoever streams it may go away before the first byte, so the files are closed with the archive.
        weakref.finalize(self, self._files.close)
        weights_path = blobs.path(version.weights.sha256)
        weights, trained = read_header(weights_path), self._open(weights_path)
        missing = {name for name in weights.tensors if "/" not in name}  # others go beside the model's: adapters
        for name, blob in job.prepared.export:
            _check_name(name)
            path = blobs.path(blob.sha256)
            template = Piece(self._open(path), 0, blob.size_bytes)
            if name.endswith(".safetensors"):
                pieces = tuple(_patched(path, template, trained, weights, missing))
            else:
                pieces = (template,)
            self._members.append(Member(name, b"", pieces))
        if missing:
            raise ArchiveError(f"the model's files have no place for: {', '.join(sorted(missing))}")

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
            if member.data:
                yield member.data
            for piece in member.pieces:
                yield from _read(piece)
            yield bytes(_padded(size) - size)
        yield bytes(2 * BLOCK)

    def _open(self, path: Path) -> int:
        """An open file's descriptor, as long as this archive lives."""
        descriptor = os.open(path, os.O_RDONLY)
        self._files.callback(os.close, descriptor)
        return descriptor

    def _head(self, name: str, size_bytes: int, kind: bytes, mode: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.mode, info.mtime = size_bytes, kind, mode, self._mtime
        # GNU: sizes past 8 GiB fit the one block that `size_bytes` counts on; `_check_name` keeps paths short.
        return info.tobuf(format=tarfile.GNU_FORMAT)


def _patched(path: Path, template: Piece, trained: int, weights: Header, missing: set[str]) -> Iterator[Piece]:
    """The template's bytes, with the tensors that `weights` holds taken from there; takes their names off `missing`.

    Args:
        path: of the template's file.
        trained: descriptor of the file that `weights` describes.
    """
    start, tensors = _template(path)
    position = 0
    for offset, name, spec in sorted(
        (start + item["data_offsets"][0], name, item) for name, item in tensors.items() if name in weights.tensors
    ):
        entry = weights.tensors[name]
        if spec["dtype"] != entry.spec.dtype or tuple(spec["shape"]) != entry.spec.shape:
            raise ArchiveError(
                f"{name} is {spec['dtype']} {spec['shape']} in the model's files, {entry.spec} in the weights"
            )
        if offset > position:
            yield replace(template, offset=position, size_bytes=offset - position)
        yield Piece(trained, weights.data_start + entry.start, entry.spec.size_bytes)
        position = offset + entry.spec.size_bytes
        missing.discard(name)
    if template.size_bytes > position:
        yield replace(template, offset=position, size_bytes=template.size_bytes - position)


def _template(path: Path) -> tuple[int, dict[str, Any]]:
    """Start of the data and header of a safetensors file of any dtypes; our aggregator wrote it, so it is trusted."""
    with path.open("rb") as file:
        length = header_length(file.read(LENGTH_BYTES))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return LENGTH_BYTES + length, tensors


def _read(piece: Piece) -> Iterator[bytes]:
    offset, end = piece.offset, piece.offset + piece.size_bytes
    while offset < end:
        chunk = os.pread(piece.descriptor, min(end - offset, CHUNK_BYTES), offset)
        if not chunk:
            raise ArchiveError(f"a file of the model ended {end - offset} bytes early")
        yield chunk
        offset += len(chunk)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name == CARD or len(name.encode()) > MAX_NAME_BYTES:
        raise ArchiveError(f"{name!r} can not be a file of a model archive")
