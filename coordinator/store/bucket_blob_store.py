"""The blob store in a bucket, which any number of coordinators share, each with a folder of its own on its machine.

sha256/ab/abcdef...   blobs, each an object
used/abcdef...        empty; when a blob that was there already was put again
partial/<key>/...     files being received, see `coordinator.store.bucket_partial`
sweeping              the mark of who deletes, see `coordinator.store.bucket_sweeps`
store-id              id of the state store that names these blobs  } see `coordinator.store.binding`
store-age             how old that state store is, in looks         }
looks.json            what the collector saw last, see `coordinator.store.looks`

folder/cache/         copies of blobs, see `coordinator.store.blob_cache`
folder/scratch/       work in progress, see `coordinator.store.scratch`

A blob is written in a single step, once its hash is known, and is never changed. Nothing on the machine is missed when
it is gone.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from coordinator.state.errors import BlobNotFound
from coordinator.store import bucket_partial
from coordinator.store.blob_cache import BlobCache
from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S, BlobsAway, Held, PartialFile
from coordinator.store.bucket import PROBE_S, Bucket, ObjectMeta, ObjectRanges
from coordinator.store.bucket_partial import PIECE_BYTES, BucketPartialFile
from coordinator.store.bucket_sweeps import BLOBS, QUICK_S, STALE_S, Sweeps, name_of, used
from coordinator.store.composed import Copy
from coordinator.store.scratch import Scratch
from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef, checked_sha256
from fedgalore.process.content_folder import checked_key, hash_file, ref_of_file
from fedgalore.process.faults import Fault, reach
from fedgalore.process.ranges import FileRanges, RangeReader

CACHED_WHOLE_BYTES = 2**26  # of which agents read the first bytes: others are about to, too
_FEW = 5  # blobs, of which each is asked for by itself
_TRIES = 5


class BucketBlobStore:
    """`BlobStore` in a bucket. The protocol's docstrings say what the methods do; `BlobsAway` is an `OSError`."""

    setting = "blobs"
    composes = False

    def __init__(self, url: str, folder: Path, cache_bytes: int, piece_bytes: int = PIECE_BYTES) -> None:
        """Creates the folders on this machine, and asks the bucket nothing.

        Args:
            url: as of `Bucket`.
            cache_bytes: that copies of blobs may take in the folder.
            piece_bytes: after which what is being received is saved.

        Raises:
            BlobsAway: obstore is not installed, or the settings of the storage do not fit.
            OSError: a folder cannot be created.
        """
        self.unsaved_bytes = piece_bytes
        self._bucket, self._quick, self._asked = Bucket(url), Bucket(url, QUICK_S), Bucket(url, PROBE_S)
        self._sweeps = Sweeps(self._quick)
        self._scratch = Scratch(folder / "scratch")
        self._cache = BlobCache(folder / "cache", cache_bytes)
        self._fetching: dict[str, threading.Lock] = {}

    def room(self) -> tuple[int, int] | None:
        return None

    def put_file(self, path: Path, *, move: bool = False, copies: Sequence[Copy] = ()) -> BlobRef:
        before = path.stat()
        blob = ref_of_file(path)
        if move and self._scratch.holds(path):
            self._adopt(path, blob)
            return blob
        self._put(path, blob)
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            self.discard_damaged(blob.sha256)
            raise OSError(f"{path} was written to while it was stored; leave it alone")
        if move:
            path.unlink()
        return blob

    def open(self, sha256: str) -> RangeReader:
        meta = self._found(sha256)
        while (path := self._local(sha256, meta)) is not None:
            with suppress(FileNotFoundError):  # another process has made room
                return FileRanges(path)
        return ObjectRanges(self._bucket, meta)

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        with suppress(FileNotFoundError):  # of a copy for which another process has no room any more
            if (path := self._near(sha256, offset)) is not None:
                with FileRanges(path) as file:
                    return file.read(offset, length)
        try:
            return self._bucket.read(_place(sha256), offset, length)
        except FileNotFoundError as error:
            raise _not_found(sha256) from error
        except BlobsAway:
            if offset >= self._found(sha256).size_bytes:
                return b""
            raise

    def url(self, sha256: str, valid_s: float) -> str | None:
        return self._bucket.sign(_place(sha256), valid_s)

    @contextmanager
    def on_disk(self, sha256: str) -> Iterator[Path]:
        blob = BlobRef(sha256, self._found(sha256).size_bytes)
        with self.scratch_folder() as folder:  # which no tidying of the cache touches
            if not self._copy_held(blob, folder / "blob"):
                raise _not_found(sha256)
            yield folder / "blob"

    def exists(self, sha256: str) -> bool:
        return self._meta(sha256) is not None

    def present(self, hashes: Collection[str]) -> set[str]:
        if len(hashes) <= _FEW:
            return {sha256 for sha256 in hashes if self.exists(sha256)}
        return {name_of(each) for each in self._bucket.list(BLOBS)}.intersection(hashes)

    def holds(self, blob: BlobRef) -> bool:
        return self.stored_bytes(blob) is not None

    def stored_bytes(self, blob: BlobRef) -> int | None:
        meta = self._meta(blob.sha256)
        return blob.size_bytes if meta is not None and meta.size_bytes == blob.size_bytes else None

    def is_sound(self, sha256: str) -> bool:
        if (meta := self._meta(sha256)) is None:
            return False
        with suppress(FileNotFoundError):  # deleted meanwhile, here or there
            if self._cache.tag(sha256) == meta.tag and (copy := self._cache.find(sha256)) is not None:
                if hash_file(copy) == sha256:
                    return True
                self._cache.drop(sha256)  # the disk of this machine has damaged it
            if self._cache.takes(meta.size_bytes):
                return self._fetched(sha256, meta) is not None
            digest = hashlib.sha256()
            for block in self._bucket.blocks(meta.path, meta.size_bytes):
                digest.update(block)
            return digest.hexdigest() == sha256
        return False

    def discard_damaged(self, sha256: str) -> bool:
        if not self.exists(sha256):
            return True
        until = time.monotonic() + 2 * STALE_S
        while not self.is_sound(sha256):
            with self._sweeps.turn() as turn:  # as a sweep: who puts it meanwhile is to notice
                if turn is not None and not self.is_sound(sha256) and not turn.is_over:
                    self._quick.delete([_place(sha256)])
                    self._cache.drop(sha256)
                    return True
            if time.monotonic() > until:
                raise BlobsAway(f"{self._bucket.url}: damaged blob {sha256} cannot be deleted, because others delete")
            time.sleep(0.1)
        return False

    def open_partial(self, key: str, blob: BlobRef) -> PartialFile:
        return BucketPartialFile(
            self._bucket, checked_key(key), blob, self._scratch, self._adopt, self._copy_held, self.unsaved_bytes
        )

    def partial_bytes(self, key: str) -> int | None:
        return bucket_partial.received_bytes(self._bucket, key)

    def discard_partial(self, key: str) -> None:
        bucket_partial.discard(self._bucket, key)

    def partial_keys(self, start: str = "") -> list[str]:
        return bucket_partial.keys(self._bucket, start)

    def scratch_folder(self) -> AbstractContextManager[Path]:
        return self._scratch.folder()

    def held(self, keep: Container[str]) -> Held:
        sizes = {name_of(each): each.size_bytes for each in self._bucket.list(BLOBS)}
        return Held({name: size for name, size in sizes.items() if name not in keep}, sum(sizes.values()))

    def sweep(
        self, keep: Container[str], spent: Container[str], now: float, may_go: Container[str] | None = None
    ) -> int:
        if may_go is not None and not may_go:
            return 0

        def may_delete(name: str, age_s: float) -> bool:
            stays = name in keep or (may_go is not None and name not in may_go)
            return not stays and age_s > (SPENT_GRACE_S if name in spent else GRACE_S)

        return self._sweeps.delete(self._bucket, may_delete, now - time.time())

    def looks(self) -> str | None:
        return self._text("looks.json")

    def note_looks(self, text: str) -> None:
        self._bucket.put("looks.json", text.encode())

    def store_id(self) -> str | None:
        return self._text("store-id")

    def bind(self, store_id: str) -> str:
        self._bucket.put("store-id", store_id.encode(), new=True)
        return self.store_id() or store_id

    def bind_anew(self, store_id: str) -> None:
        self._bucket.put("store-id", store_id.encode())

    def age(self) -> int:
        text = self._text("store-age") or ""
        return int(text) if text.isdecimal() else 0

    def note_age(self, age: int) -> None:
        self._bucket.put("store-age", str(age).encode())

    def check(self) -> None:
        with self.scratch_folder() as folder:
            (folder / "byte").write_bytes(b"\0")
            durable.sync(folder / "byte")
        self._scratch.sweep(time.time() - GRACE_S)  # each machine its own, whoever leads
        self._asked.check()

    def _adopt(self, file: Path, blob: BlobRef) -> None:
        self._cache.adopt(file, blob, self._put(file, blob))

    def _put(self, file: Path, blob: BlobRef) -> str:
        """Has the blob in the bucket, used now. Returns its tag there."""
        place = _place(blob.sha256)
        reach(Fault.BLOB_SYNCED)
        for _ in range(_TRIES):
            meta = self._bucket.head(place)
            if meta is None or meta.size_bytes != blob.size_bytes:
                tag = self._bucket.put(place, file) or ""
            else:
                tag = meta.tag
                self._bucket.put(used(blob.sha256), b"")
            if not self._sweeps.let_pass() or self.holds(blob):
                reach(Fault.BLOB_NAMED)
                return tag
        raise BlobsAway(f"{self._bucket.url}: blob {blob.sha256} is deleted as often as it is stored")

    def _meta(self, sha256: str) -> ObjectMeta | None:
        try:
            return self._bucket.head(_place(sha256))
        except ValueError:
            return None

    def _found(self, sha256: str) -> ObjectMeta:
        if (meta := self._meta(sha256)) is None:
            raise _not_found(sha256)
        return meta

    def _near(self, sha256: str, offset: int) -> Path | None:
        """A copy to read a piece of an often read blob from."""
        try:
            path = self._cache.find(sha256)
        except ValueError as error:
            raise _not_found(sha256) from error
        if path is None and offset == 0 and (meta := self._found(sha256)).size_bytes <= CACHED_WHOLE_BYTES:
            return self._local(sha256, meta)
        return path

    def _local(self, sha256: str, meta: ObjectMeta) -> Path | None:
        """The blob's copy in the cache, which is fetched if need be; None where it is too large.

        Raises:
            OSError: it is damaged.
        """
        if not self._cache.takes(meta.size_bytes):
            return None
        with self._fetching.setdefault(sha256, threading.Lock()):
            if (path := self._cache.find(sha256)) is None:
                path = self._fetched(sha256, meta)
        self._fetching.pop(sha256, None)
        if path is None:
            raise OSError(f"blob {sha256} is damaged in the bucket: what it holds has another hash")
        return path

    def _fetched(self, sha256: str, meta: ObjectMeta) -> Path | None:
        """Reads a blob through, into the cache, which takes it; None where its content has another hash."""
        with self.scratch_folder() as folder:
            if self._download(meta, folder / "blob") != sha256:
                return None
            return self._cache.adopt(folder / "blob", BlobRef(sha256, meta.size_bytes), meta.tag)

    def _copy_held(self, blob: BlobRef, path: Path) -> bool:
        """Writes what the bucket has under the blob's name to a path. False where it has not, at the blob's size."""
        meta = self._meta(blob.sha256)
        if meta is None or meta.size_bytes != blob.size_bytes:
            return False
        if self._cache.tag(blob.sha256) == meta.tag and (copy := self._cache.find(blob.sha256)) is not None:
            with suppress(OSError):  # another process has made room, or the disk has no hard links
                path.hardlink_to(copy)
                return True
        self._download(meta, path)
        return True

    def _download(self, meta: ObjectMeta, path: Path) -> str:
        """Writes an object to a path. Returns the SHA-256 of its content."""
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for block in self._bucket.blocks(meta.path, meta.size_bytes):
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    def _text(self, path: str) -> str | None:
        content = self._bucket.get(path)
        return content.decode(errors="replace") if content is not None else None


def _place(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{checked_sha256(sha256)}"


def _not_found(sha256: str) -> BlobNotFound:
    return BlobNotFound(f"no blob {sha256[:64]!r} is held here; ask for one that your task names")
