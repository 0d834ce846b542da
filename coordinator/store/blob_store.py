"""Weights, updates and model files, outside Redis: each file is named by its content.

What the coordinator asks of a place for them. A directory fulfils it, see `coordinator.store.directory_blob_store`; a
bucket can, for nobody asks where a file lies. Who has to map a file says so: `on_disk`.

All calls block; asyncio code runs them in threads.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import RangeReader

GRACE_S = 3600.0  # how long a blob that nobody names may wait for its reference to be written
SPENT_GRACE_S = 120.0  # the same where its reference is known to be over; another one to equal bytes is quick to come


class PartialInUse(RuntimeError):
    """Somebody else has this partial file open, in whichever process, or has just finished or discarded it."""


class PartialFile(Protocol):
    """A file that is being received, open to one opener alone until it is closed; what it has outlives this process."""

    def received(self) -> Iterator[bytes]:
        """What has been received, from the first byte on, in blocks; nothing may be appended meanwhile.

        Raises:
            OSError: it cannot be read.
        """

    def append(self, data: bytes) -> None:
        """Adds to the end; the bytes outlive this process when it returns.

        Raises:
            OSError: they cannot be written; some of them may have been.
            ValueError: the file would grow past the size of its blob; nothing was written.
        """

    def on_disk(self) -> AbstractContextManager[Path]:
        """A file on this machine with what has been received, to read and map.

        Raises:
            FileNotFoundError: it was discarded meanwhile.
        """

    def adopt(self) -> None:
        """Makes it the blob that it was opened for; the caller has checked that it is. The partial file is gone.

        Raises:
            FileNotFoundError: it was discarded meanwhile.
            OSError: the store cannot be written.
        """

    def discard(self) -> None:
        """Deletes what has been received; close it all the same."""

    def close(self) -> None:
        """Lets go of it; somebody else may open it, and goes on where it ends."""


class BlobStore(Protocol):
    """A blob is complete and never changes; several processes may share a store."""

    def put_file(self, path: Path, *, move: bool = False) -> BlobRef:
        """Stores a file's content; safe from a power cut when this returns, and the same whether it was there or not.

        Args:
            move: the file itself becomes the blob and is gone from `path`; otherwise it is copied and left alone.

        Raises:
            OSError: the file cannot be read, or the store cannot be written.
        """

    def put_bytes(self, data: bytes) -> BlobRef:
        """Stores bytes, as `put_file`."""

    def open(self, sha256: str) -> RangeReader:
        """The blob, to be read in ranges until it is closed, also when it is swept meanwhile.

        Raises:
            BlobNotFound: not in this store, or not a hash.
            OSError: it cannot be read.
        """

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; none at the end.

        Raises:
            BlobNotFound, OSError: as `open`.
        """

    def on_disk(self, sha256: str) -> AbstractContextManager[Path]:
        """The blob as a file on this machine, to read and map but never to change.

        The path holds until the block ends or the blob is swept; what was mapped by then stays readable.

        Raises:
            BlobNotFound: not in this store, or not a hash.
        """

    def exists(self, sha256: str) -> bool:
        """Whether there is such a blob; what is no hash is none."""

    def holds(self, blob: BlobRef) -> bool:
        """Whether the blob is there at its size; its content is not read."""

    def is_sound(self, sha256: str) -> bool:
        """Reads a blob through; whether it is there and its content is its name's.

        Raises:
            OSError: it is there and cannot be read.
        """

    def discard_damaged(self, sha256: str) -> bool:
        """Reads a blob through and deletes it if its content is not its name's; whether it is gone, or was missing.

        Raises:
            OSError: it is there, but can be neither read nor deleted.
        """

    def open_partial(self, key: str, blob: BlobRef) -> PartialFile:
        """The file of this key, which is to become `blob`, opened where it ends; begun where there is none.

        A blob that is held already counts as received, all of it, where nothing else was received under this key.

        Raises:
            PartialInUse: somebody else has it open.
            OSError: the store cannot be written.
            ValueError: the key does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
        """

    def partial_bytes(self, key: str) -> int | None:
        """How much was received under this key; None: nothing was begun.

        Raises:
            ValueError: as `open_partial`.
        """

    def discard_partial(self, key: str) -> None:
        """Deletes what was received under this key, if anything was, whoever has it open.

        Raises:
            ValueError: as `open_partial`.
        """

    def partial_keys(self) -> list[str]:
        """Keys under which something was received, sorted."""

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """An empty folder on this machine for files that `put_file(move=True)` then takes; gone at the end."""

    def sweep(self, keep: Container[str], spent: Container[str], now: float) -> int:
        """Deletes blobs whose hash is not in `keep`, and scratch left by killed processes; bytes freed.

        Args:
            keep: hashes that are needed, whether spent elsewhere or not.
            spent: hashes that were named and are over. They stay `SPENT_GRACE_S` after they were put, or put again,
                all others `GRACE_S`: a reference may be on its way.
            now: seconds since the epoch.
        """

    def store_id(self) -> str | None:
        """Id of the state store that these blobs belong to; None: they are bound to none yet.

        Raises:
            OSError: it cannot be read.
        """

    def bind(self, store_id: str) -> str:
        """Binds the blobs to this state store unless they are bound already; the id that they are bound to.

        Raises:
            OSError: the store cannot be written.
        """

    def check(self) -> None:
        """Writes, syncs and removes a byte.

        Raises:
            OSError: the store cannot be written.
        """
