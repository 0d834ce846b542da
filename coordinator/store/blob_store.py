"""Weights, updates and model files, outside Redis: a folder in which each file is named by its content.

    root/sha256/ab/abcdef...   finished blobs: complete, synced, never changed
    root/partial/<key>         files being received
    root/scratch/              work in progress of whoever fills the store, on the same disk: a folder each, with `lock`
                               taken by its owner and his files in `files/`
    root/lock                  taken by who puts (shared) and who sweeps or binds (exclusive)
    root/store-id              id of the state store that names these blobs, see `coordinator.store.binding`

All calls block on the disk; asyncio code runs them in threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from coordinator.state.errors import BlobNotFound
from coordinator.state.round_state import BlobRef
from fedgalore.process.faults import Fault, reach

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
_COPY_BYTES = 2**20
GRACE_S = 3600.0  # how long a blob that nobody names may wait for its reference to be written
SPENT_GRACE_S = 120.0  # the same where its reference is known to be over; another one to equal bytes is quick to come


class BlobStore(Protocol):
    """What the coordinator asks of a place for blobs."""

    def put_file(self, path: Path, *, move: bool = False) -> BlobRef:
        """Stores a file's content; safe on disk when this returns, and the same whether it was there already or not.

        Args:
            move: the file itself becomes the blob and is gone from `path`; otherwise it is copied and left alone.
        """

    def put_bytes(self, data: bytes) -> BlobRef:
        """Stores bytes, as `put_file`."""

    def adopt(self, path: Path, blob: BlobRef) -> None:
        """Makes a blob of a file below this store's root whose hash the caller has computed; it is gone from `path`."""

    def path(self, sha256: str) -> Path:
        """Where the blob lies; read only.

        Raises:
            BlobNotFound: not in this store, or not a hash.
        """

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; none at the end.

        Raises:
            BlobNotFound: not in this store, or not a hash.
        """

    def exists(self, sha256: str) -> bool: ...

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

    def partial_path(self, key: str) -> Path:
        """Where the file of this key is to be received.

        Raises:
            ValueError: the key does not start with a letter or digit, or has characters outside `A-Za-z0-9._+-`.
        """

    def partial_keys(self) -> list[str]:
        """Keys of the partial files that exist, sorted."""

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """An empty folder on the store's own disk, for files that `put_file(move=True)` then takes; gone at the end."""

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


class DirectoryBlobStore:
    """The blob store in a directory; several processes may share one."""

    def __init__(self, root: Path) -> None:
        """Makes the folders.

        Raises:
            OSError: the root cannot be made.
        """
        self._blobs = root / "sha256"
        self._partial = root / "partial"
        self._scratch = root / "scratch"
        self._lock = root / "lock"
        self._store_id = root / "store-id"
        for folder in (self._blobs, self._partial, self._scratch):
            folder.mkdir(parents=True, exist_ok=True)

    def put_file(self, path: Path, *, move: bool = False) -> BlobRef:
        if move:
            with path.open("rb") as file:
                blob = BlobRef(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
            with self.scratch_folder() as folder:
                # A rename, or a copy where `path` is on another disk.
                self.adopt(Path(shutil.move(path, folder / "blob")), blob)
            return blob
        digest, size = hashlib.sha256(), 0
        with self.scratch_folder() as folder:
            with path.open("rb") as source, (folder / "blob").open("wb") as copy:
                while block := source.read(_COPY_BYTES):
                    digest.update(block)
                    size += copy.write(block)
            blob = BlobRef(digest.hexdigest(), size)
            self.adopt(folder / "blob", blob)
        return blob

    def put_bytes(self, data: bytes) -> BlobRef:
        blob = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        with self.scratch_folder() as folder:
            (folder / "blob").write_bytes(data)
            self.adopt(folder / "blob", blob)
        return blob

    def adopt(self, path: Path, blob: BlobRef) -> None:
        target = self._target(blob.sha256)
        with self._locked(fcntl.LOCK_SH):
            if target.exists():
                os.utime(target)  # young again: the sweep leaves it to the reference that is about to be written
                path.unlink()
            else:
                _sync(path)
                target.parent.mkdir(exist_ok=True)
                _sync(self._blobs)
                reach(Fault.BLOB_SYNCED)
                path.replace(target)
                os.utime(target)
                reach(Fault.BLOB_NAMED)
        _sync(target.parent)  # of a blob that was there, too: who put it may not have come so far

    def path(self, sha256: str) -> Path:
        if SHA256.fullmatch(sha256):
            path = self._target(sha256)
            if path.is_file():
                return path
        raise BlobNotFound(f"no blob {sha256[:64]!r} is held here; ask for one that your task names")

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        with self.path(sha256).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def exists(self, sha256: str) -> bool:
        return SHA256.fullmatch(sha256) is not None and self._target(sha256).is_file()

    def is_sound(self, sha256: str) -> bool:
        try:
            with self._target(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def discard_damaged(self, sha256: str) -> bool:
        if self.is_sound(sha256):
            return False
        with self._locked(fcntl.LOCK_EX):  # else the sound one that just takes its place would go
            if self.is_sound(sha256):
                return False
            self._target(sha256).unlink(missing_ok=True)
        return True

    def partial_path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a key for a partial file: {key!r}")
        return self._partial / key

    def partial_keys(self) -> list[str]:
        return sorted(entry.name for entry in self._partial.iterdir())

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as made:
            files = Path(made) / "files"
            files.mkdir()
            # A file is locked, and not the folder: network disks know no locks on folders.
            with (Path(made) / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield files

    def sweep(self, keep: Container[str], spent: Container[str], now: float) -> int:
        freed = 0
        for blob in self._blobs.glob("??/*"):
            if blob.name in keep:
                continue
            grace_s = SPENT_GRACE_S if blob.name in spent else GRACE_S
            with suppress(FileNotFoundError), self._locked(fcntl.LOCK_EX):  # another coordinator may sweep as well
                status = blob.stat()
                if now - status.st_mtime > grace_s:
                    blob.unlink()
                    freed += status.st_size
        for left in self._scratch.iterdir():
            with suppress(FileNotFoundError):  # its owner may be alive and just done with it
                if now - left.stat().st_mtime > GRACE_S and not _has_owner(left):
                    shutil.rmtree(left)
        return freed

    def store_id(self) -> str | None:
        try:
            return self._store_id.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None

    def bind(self, store_id: str) -> str:
        with self.scratch_folder() as folder, self._locked(fcntl.LOCK_EX):
            bound = self.store_id()
            if bound is None:
                draft = folder / "store-id"
                draft.write_text(f"{store_id}\n", encoding="ascii")
                _sync(draft)
                draft.replace(self._store_id)
                _sync(self._store_id.parent)
                bound = store_id
        return bound

    def check(self) -> None:
        with self.scratch_folder() as folder:
            (folder / "byte").write_bytes(b"\0")
            _sync(folder / "byte")

    def _target(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Keeps a sweep from deleting what another process just finds to be there; the lock ends with its holder."""
        with self._lock.open("ab") as file:
            fcntl.flock(file, mode)
            yield


def _has_owner(scratch: Path) -> bool:
    """Whether a process still works in this scratch folder; the system drops the lock of one that is gone."""
    try:
        with (scratch / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _sync(path: Path) -> None:
    """Puts a file's bytes, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
