"""Weights, updates and model files are kept outside Redis. Each file is a blob, named by the hash of its content.

`BlobStore` is what the coordinator asks of a place for blobs. `coordinator.store.directory_blob_store` keeps them in a
directory, `coordinator.store.bucket_blob_store` in a bucket. No caller asks where a blob lies; a caller that has to map
a file into memory asks for it by `on_disk`.

All calls block. Asyncio code runs them in threads.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coordinator.store.composed import Copy
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import RangeReader

GRACE_S = 3600.0  # how long a blob without a reference may wait for the reference to be written
SPENT_GRACE_S = 120.0  # the same for a blob whose reference has ended; a second reference to equal bytes comes quickly


@dataclass(frozen=True)
class Held:
    """What is in a store. `unneeded`: by hash, the bytes that a blob takes by itself."""

    unneeded: Mapping[str, int]
    all_bytes: int


class BlobsAway(OSError):
    """The place of the blobs does not answer, or refuses, which a person can mend: the message says how. What met it is
    to be tried again."""


class PartialInUse(RuntimeError):
    """Another opener, of this process or another, has this partial file, or has just finished or discarded it."""


class PartialFile(Protocol):
    """A file that is being received. One opener at a time has it, and no other's bytes become the blob."""

    def received(self) -> Iterator[bytes]:
        """The bytes received so far, from the first on, in blocks. Nothing may be appended meanwhile.

        Raises:
            OSError: it cannot be read.
        """

    def append(self, data: bytes) -> None:
        """Adds bytes at the end. But for the last `BlobStore.unsaved_bytes` of the file, they outlive this process.

        Raises:
            OSError: the bytes cannot be written; some of them may have been.
            ValueError: the file would grow past the size of its blob; nothing was written.
        """

    def on_disk(self) -> AbstractContextManager[Path]:
        """A file on this machine with the bytes received so far, to read and map.

        Raises:
            FileNotFoundError: the partial file was discarded meanwhile.
        """

    def adopt(self) -> None:
        """Turns the file into the blob that it was opened for, whose hash the caller has checked.

        The partial file is gone then, and the blob safe from a power cut.

        Raises:
            FileNotFoundError: the partial file was discarded meanwhile.
            OSError: the store cannot be written.
        """

    def is_in_place(self) -> bool:
        """Whether it was neither adopted nor discarded meanwhile, by whomever."""

    def discard(self) -> None:
        """Deletes the bytes received so far. `close` is still to be called."""

    def close(self) -> None:
        """Lets go of the file, all of which is saved. The next opener goes on where it ends."""


class BlobStore(Protocol):
    """A blob is complete and never changes; several processes may share a store."""

    @property
    def setting(self) -> str:
        """Name of the setting that names this place, for messages."""

    @property
    def composes(self) -> bool:
        """Whether it makes use of `copies`; else nobody need look for any."""

    @property
    def unsaved_bytes(self) -> int:
        """How much of a partial file its opener may hold back; a kill loses as much, and it is sent again."""

    def room(self) -> tuple[int, int] | None:
        """Bytes of the disk that it is on, and those that are free; None where nobody knows."""

    def put_file(self, path: Path, *, move: bool = False, copies: Sequence[Copy] = ()) -> BlobRef:
        """Stores a file's content. When the call returns, the blob is safe from a power cut, be it new or not.

        Args:
            move: the file itself becomes the blob and is gone from `path`; otherwise it is copied and left alone.
            copies: what of the file other blobs of this store may hold. Those that do need not be stored again; where
                they are not, a sweep leaves those blobs as long as this blob.

        Raises:
            BlobNotFound: one of these blobs was deleted meanwhile.
            OSError: the file cannot be read, or the store cannot be written.
        """

    def open(self, sha256: str) -> RangeReader:
        """The blob, to be read in ranges until it is closed: where it has a `path`, also after a sweep has deleted it.

        Raises:
            BlobNotFound: the blob is not in this store, or `sha256` is no hash.
            OSError: the blob cannot be read.
        """

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; no bytes at the end of the blob.

        Raises:
            BlobNotFound, OSError: as `open`.
        """

    def url(self, sha256: str, valid_s: float) -> str | None:
        """Where anybody can read the blob by HTTP for so long; None where this store has no such place."""

    def on_disk(self, sha256: str) -> AbstractContextManager[Path]:
        """The blob as a file on this machine, to read and map but never to change.

        The path is good until the block ends or a sweep deletes the blob. What was mapped before stays readable.

        Raises:
            BlobNotFound: the blob is not in this store, or `sha256` is no hash.
        """

    def exists(self, sha256: str) -> bool:
        """Whether the blob is in this store. False where `sha256` is no hash."""

    def present(self, hashes: Collection[str]) -> set[str]:
        """Which of these blobs are in this store."""

    def holds(self, blob: BlobRef) -> bool:
        """Whether the blob is in this store at its size. Its content is not read."""

    def stored_bytes(self, blob: BlobRef) -> int | None:
        """What the blob takes by itself where it is in this store at its size; None where it is not."""

    def is_sound(self, sha256: str) -> bool:
        """Reads a blob through. Whether it is in this store and its content has the hash that names it.

        Raises:
            OSError: the blob is there and cannot be read.
        """

    def discard_damaged(self, sha256: str) -> bool:
        """Reads a blob through and deletes it if its content has another hash than its name. Whether it is missing now.

        Raises:
            OSError: the blob is there, but can be neither read nor deleted.
        """

    def open_partial(self, key: str, blob: BlobRef) -> PartialFile:
        """Opens the partial file of this key, which is to become `blob`, or begins it.

        Where nothing was received under this key and the store has the blob, the whole blob counts as received.

        An opener before this one that has not closed it either keeps it, or has lost it and hears so.

        Raises:
            PartialInUse: another opener has the partial file, and keeps it.
            OSError: the store cannot be written.
            ValueError: the key does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
        """

    def partial_bytes(self, key: str) -> int | None:
        """Bytes received under this key; None where no file was begun.

        Raises:
            ValueError: as `open_partial`.
        """

    def discard_partial(self, key: str) -> None:
        """Deletes the partial file of this key if there is one, even while an opener has it.

        Raises:
            ValueError: as `open_partial`.
        """

    def partial_keys(self, start: str = "") -> list[str]:
        """Keys of all partial files that start so, sorted."""

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """An empty folder on this machine, for files that `put_file(move=True)` takes. It is deleted at the end."""

    def held(self, keep: Container[str]) -> Held:
        """What is in this store.

        Args:
            keep: hashes that are needed. So is what these blobs are made of.

        Raises:
            OSError: the store, or what a needed blob is made of, cannot be read.
        """

    def sweep(
        self, keep: Container[str], spent: Container[str], now: float, may_go: Container[str] | None = None
    ) -> int:
        """Deletes blobs that may go, and scratch folders of killed processes. Returns the bytes freed.

        A blob stays for some time after it was put, or put again, because a reference to it may be on its way:
        `SPENT_GRACE_S` if its hash is in `spent`, else `GRACE_S`.

        Args:
            keep: hashes that are needed, whatever the others say.
            spent: hashes whose reference has ended.
            now: seconds since the epoch.
            may_go: hashes of the blobs that may be deleted; None: all. One that others are made of stays with them.
        """

    def looks(self) -> str | None:
        """What `note_looks` noted last.

        Raises:
            OSError: it cannot be read.
        """

    def note_looks(self, text: str) -> None:
        """Keeps what the collector saw, beside the blobs.

        Raises:
            OSError: the store cannot be written.
        """

    def store_id(self) -> str | None:
        """Id of the state store that the blobs belong to; None while they are bound to no state store.

        Raises:
            OSError: the id cannot be read.
        """

    def bind(self, store_id: str) -> str:
        """Binds the blobs to this state store unless they are bound already. Returns the id that they are bound to.

        Raises:
            OSError: the store cannot be written.
        """

    def age(self) -> int:
        """The age of the state store that these blobs have seen; 0 where none was noted.

        Raises:
            OSError: it cannot be read.
        """

    def note_age(self, age: int) -> None:
        """Keeps the age of the state store.

        Raises:
            OSError: the store cannot be written.
        """

    def bind_anew(self, store_id: str) -> None:
        """Binds the blobs to this state store, whatever they were bound to.

        Raises:
            OSError: the store cannot be written.
        """

    def check(self) -> None:
        """Writes, syncs and deletes a byte.

        Raises:
            OSError: the store cannot be written.
        """
