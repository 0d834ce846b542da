"""A partial file in a bucket: what has arrived lies in pieces that any process can read, and in a file of its opener's.

partial/<key>/begun               who receives it: a random token of its opener
partial/<key>/0000000008388608    the bytes from there on

An opener that comes later takes the file over: the one before finds another token, and its bytes become no blob. What
becomes the blob is the file of the opener, whose hash it has checked, so no piece that another has written can get in.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from coordinator.store.blob_store import BlobsAway
from coordinator.store.bucket import Bucket, ObjectMeta
from coordinator.store.scratch import Scratch
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import checked_key

PIECE_BYTES = 2**23
LOOK_S = 1.0  # for so long nobody looks again whether another has taken the file over
_BLOCK_BYTES = 2**20
_FOLDER = "partial"


class BucketPartialFile:
    """`PartialFile` in a bucket. The protocol's docstrings say what the methods do."""

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        blob: BlobRef,
        scratch: Scratch,
        adopt: Callable[[Path, BlobRef], None],
        copy_held: Callable[[BlobRef, Path], bool],
        piece_bytes: int,
    ) -> None:
        """Takes the file over, or begins it, and fetches what has arrived.

        Args:
            adopt: turns a complete file into a blob.
            copy_held: writes the blob to a path where the store has it.

        Raises:
            BlobsAway: the bucket does not answer.
            OSError: the disk refuses.
        """
        self._bucket, self._key, self._blob, self._adopt = bucket, key, blob, adopt
        self._place = f"{_FOLDER}/{key}"
        self._piece_bytes = piece_bytes
        self._token = uuid.uuid4().hex.encode()
        self._is_gone = False
        with ExitStack() as opened:
            self._path = opened.enter_context(scratch.folder()) / "received"
            before = list(bucket.list(self._place))
            bucket.put(f"{self._place}/begun", self._token)
            self._looked = time.monotonic()
            is_held = not before and copy_held(blob, self._path)
            self._file = opened.enter_context(self._path.open("a+b"))
            if not is_held:
                self._fetch(before)
            self._file.seek(0, os.SEEK_END)
            self._size_bytes = self._saved_bytes = self._file.tell()
            self._opened = opened.pop_all()

    def received(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            yield block

    def append(self, data: bytes) -> None:
        if self._size_bytes + len(data) > self._blob.size_bytes:
            raise ValueError(f"more than the {self._blob.size_bytes} bytes of blob {self._blob.sha256}")
        self._file.write(data)
        self._size_bytes += len(data)
        while self._size_bytes - self._saved_bytes >= self._piece_bytes and self._size_bytes < self._blob.size_bytes:
            self._save(self._saved_bytes + self._piece_bytes)

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        self._check_in_place()
        self._file.flush()
        yield self._path

    def adopt(self) -> None:
        self._check_in_place()
        self._file.flush()
        self._adopt(self._path, self._blob)
        self._is_gone = True
        discard(self._bucket, self._key)

    def is_in_place(self) -> bool:
        try:
            return not self._is_gone and (time.monotonic() - self._looked < LOOK_S or self._look())
        except BlobsAway:  # which says nothing
            return True

    def discard(self) -> None:
        if not self._is_gone and self._look():
            self._is_gone = True
            discard(self._bucket, self._key)

    def close(self) -> None:
        with self._opened, suppress(OSError):  # of a bucket that is away, which `append` has raised, or a caller will
            if self._size_bytes > self._saved_bytes and not self._is_gone and self._look():
                self._save(self._size_bytes)

    def _fetch(self, before: Iterable[ObjectMeta]) -> None:
        with suppress(FileNotFoundError):  # discarded meanwhile, and so is our token
            for piece in _chain(before):
                for block in self._bucket.blocks(piece.path, piece.size_bytes):
                    self._file.write(block)

    def _save(self, end: int) -> None:
        self._file.flush()
        data = os.pread(self._file.fileno(), end - self._saved_bytes, self._saved_bytes)
        self._bucket.put(f"{self._place}/{self._saved_bytes:016d}", data)
        self._saved_bytes = end

    def _look(self) -> bool:
        self._is_gone = self._bucket.get(f"{self._place}/begun") != self._token
        self._looked = time.monotonic()
        return not self._is_gone

    def _check_in_place(self) -> None:
        if self._is_gone or not self._look():
            raise FileNotFoundError(f"the partial file {self._key} was discarded, or another receives it")


def received_bytes(bucket: Bucket, key: str) -> int | None:
    """Bytes that pieces hold from the first byte on; None where no file was begun."""
    objects = list(bucket.list(f"{_FOLDER}/{checked_key(key)}"))
    return sum(piece.size_bytes for piece in _chain(objects)) if objects else None


def discard(bucket: Bucket, key: str) -> None:
    """Deletes all of a partial file."""
    bucket.delete([each.path for each in bucket.list(f"{_FOLDER}/{checked_key(key)}")])


def keys(bucket: Bucket, start: str) -> list[str]:
    """Keys of the partial files that start so, sorted."""
    found: dict[str, None] = {}
    for each in bucket.list(_FOLDER, after=f"{_FOLDER}/{start}" if start else None):
        key = each.path.split("/")[1]
        if not key.startswith(start):
            break  # they come by path
        found[key] = None
    return sorted(found)


def _chain(objects: Iterable[ObjectMeta]) -> Iterator[ObjectMeta]:
    """The pieces that follow one another from the first byte on."""
    end = 0
    for each in sorted(objects):
        name = each.path.rpartition("/")[2]
        if name.isdecimal() and int(name) == end and each.size_bytes:
            yield each
            end += each.size_bytes
