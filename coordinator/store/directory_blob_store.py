"""The blob store in a directory, which several processes may share.

root/sha256/ab/abcdef...   blobs                } see `fedgalore.process.content_folder`
root/composed/ab/abc...    blobs that are parts of others, see `coordinator.store.composed`
root/partial/<key>         files being received }
root/scratch/              files that are to become blobs, on the same disk, see `coordinator.store.scratch`
root/lock                  a lock: shared by calls that put a blob, exclusive to a call that sweeps or binds
root/store-id              id of the state store that names these blobs  } see `coordinator.store.binding`
root/store-age             how old that state store is, in looks         }
root/looks.json            what the collector saw last, see `coordinator.store.looks`
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from coordinator.state.errors import BlobNotFound
from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S, Held, PartialFile
from coordinator.store.composed import ComposedFolder, Copy
from coordinator.store.partial_file import BLOCK_BYTES, DirectoryPartialFile
from coordinator.store.scratch import Scratch
from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ContentFolder, ref_of_file
from fedgalore.process.ranges import FileRanges, RangeReader


class DirectoryBlobStore:
    """`BlobStore` in a directory. The protocol's docstrings say what the methods do."""

    setting = "blob_dir"
    composes = True
    unsaved_bytes = 0

    def __init__(self, root: Path) -> None:
        """Creates the folders.

        Raises:
            OSError: a folder cannot be created.
        """
        self._content = ContentFolder(root)
        self._composed = ComposedFolder(root / "composed", self._content)
        self._scratch = Scratch(root / "scratch")
        self._lock = root / "lock"
        self._store_id = root / "store-id"
        self._age = root / "store-age"
        self._looks = root / "looks.json"

    def put_file(self, path: Path, *, move: bool = False, copies: Sequence[Copy] = ()) -> BlobRef:
        if copies:
            with self.scratch_folder() as folder:
                if self._composed.write(folder / "parts", path, copies):
                    return self._put_composed(folder / "parts", path, move)
        if move:
            blob = ref_of_file(path)
            if self._scratch.holds(path):
                self._adopt(path, blob)
                return blob
            with self.scratch_folder() as folder:
                # A rename, or a copy where `path` is on another disk.
                self._adopt(Path(shutil.move(path, folder / "blob")), blob)
            return blob
        digest, size = hashlib.sha256(), 0
        with self.scratch_folder() as folder:
            with path.open("rb") as source, (folder / "blob").open("wb") as copy:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
                    size += copy.write(block)
            blob = BlobRef(digest.hexdigest(), size)
            self._adopt(folder / "blob", blob)
        return blob

    def _put_composed(self, parts: Path, path: Path, move: bool) -> BlobRef:
        blob = ref_of_file(path)
        with self._locked(fcntl.LOCK_SH):
            if self._content.holds(blob):
                os.utime(self._content.path(blob.sha256))
            else:
                self._composed.adopt(parts, blob.sha256)
        if move:
            path.unlink()
        return blob

    def open(self, sha256: str) -> RangeReader:
        try:
            path = self._content.path(sha256)
            return FileRanges(path) if path.is_file() else self._composed.open(sha256)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise _not_found(sha256) from error

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        with closing(self.open(sha256)) as blob:
            return blob.read(offset, length)

    def url(self, sha256: str, valid_s: float) -> str | None:
        return None

    @contextmanager
    def on_disk(self, sha256: str) -> Iterator[Path]:
        with closing(self.open(sha256)) as blob:
            if blob.path is not None:
                yield blob.path
                return
            with self.scratch_folder() as folder:
                with (folder / "blob").open("wb") as copy:
                    for offset in range(0, blob.size_bytes, BLOCK_BYTES):
                        copy.write(blob.read(offset, BLOCK_BYTES))
                yield folder / "blob"

    def exists(self, sha256: str) -> bool:
        try:
            return self._content.path(sha256).is_file() or self._composed.size_bytes(sha256) is not None
        except ValueError:
            return False

    def present(self, hashes: Collection[str]) -> set[str]:
        return {sha256 for sha256 in hashes if self.exists(sha256)}

    def holds(self, blob: BlobRef) -> bool:
        return self._content.holds(blob) or self._composed.size_bytes(blob.sha256) == blob.size_bytes

    def stored_bytes(self, blob: BlobRef) -> int | None:
        if self._content.holds(blob):
            return blob.size_bytes
        return self._composed.path(blob.sha256).stat().st_size if self.holds(blob) else None

    def is_sound(self, sha256: str) -> bool:
        is_whole = self._content.path(sha256).is_file()
        return self._content.is_sound(sha256) if is_whole else self._composed.is_sound(sha256)

    def discard_damaged(self, sha256: str) -> bool:
        if self.is_sound(sha256):
            return False
        with self._locked(fcntl.LOCK_EX):  # no sound blob may take its place between the look and the deletion
            if self.is_sound(sha256):
                return False
            self._content.path(sha256).unlink(missing_ok=True)
            if self._composed.size_bytes(sha256) is not None:  # else a source is missing, and may come back
                self._composed.path(sha256).unlink(missing_ok=True)
        return True

    def open_partial(self, key: str, blob: BlobRef) -> PartialFile:
        path = self._content.partial_path(key)
        if not path.exists() and self.holds(blob):
            # One file under two names until it is adopted or discarded. It is complete, so nothing is appended to it.
            # Where a disk has no hard links, the file is received again.
            with suppress(OSError):
                path.hardlink_to(self._content.path(blob.sha256))
        return DirectoryPartialFile(path, blob, self._adopt)

    def partial_bytes(self, key: str) -> int | None:
        try:
            return self._content.partial_path(key).stat().st_size
        except FileNotFoundError:
            return None

    def discard_partial(self, key: str) -> None:
        self._content.partial_path(key).unlink(missing_ok=True)

    def partial_keys(self, start: str = "") -> list[str]:
        return [key for key in self._content.partial_keys() if key.startswith(start)]

    def scratch_folder(self) -> AbstractContextManager[Path]:
        return self._scratch.folder()

    def held(self, keep: Container[str]) -> Held:
        sources = self._sources(keep)
        sizes: dict[str, int] = {}
        for blob in (*self._composed.blobs.glob("??/*"), *self._content.blobs.glob("??/*")):
            with suppress(FileNotFoundError):  # another coordinator may sweep
                sizes[blob.name] = sizes.get(blob.name, 0) + blob.stat().st_size
        unneeded = {name: size for name, size in sizes.items() if name not in keep and name not in sources}
        return Held(unneeded, sum(sizes.values()))

    def sweep(
        self, keep: Container[str], spent: Container[str], now: float, may_go: Container[str] | None = None
    ) -> int:
        def stays(name: str) -> bool:
            return name in keep or (may_go is not None and name not in may_go)

        freed = self._sweep(self._composed.blobs, stays, spent, now)
        sources = self._sources(keep)
        freed += self._sweep(self._content.blobs, lambda name: name in sources or stays(name), spent, now)
        self._scratch.sweep(now - GRACE_S)
        return freed

    def _sources(self, keep: Container[str]) -> set[str]:
        """What composed blobs are made of. A needed blob that does not tell would lose its parts to a sweep."""
        sources: set[str] = set()
        for path in self._composed.blobs.glob("??/*"):
            try:
                sources |= self._composed.read_sources(path)
            except FileNotFoundError:  # another coordinator may sweep
                continue
            except (OSError, ValueError) as error:
                if path.name in keep:
                    raise OSError(
                        f"no blob is deleted: {path} cannot be read ({error}), so nobody knows which blobs it is made "
                        "of; restore it from a backup, or delete the job that it belongs to"
                    ) from error
        return sources

    def _sweep(self, folder: Path, keep: Callable[[str], bool], spent: Container[str], now: float) -> int:
        freed = 0
        for blob in folder.glob("??/*"):
            if keep(blob.name):
                continue
            grace_s = SPENT_GRACE_S if blob.name in spent else GRACE_S
            with suppress(FileNotFoundError), self._locked(fcntl.LOCK_EX):  # another coordinator may sweep, too
                status = blob.stat()
                if now - status.st_mtime > grace_s:
                    blob.unlink()
                    freed += status.st_size
        return freed

    def looks(self) -> str | None:
        return _text_of(self._looks)

    def note_looks(self, text: str) -> None:
        _write(self._looks, text)

    def store_id(self) -> str | None:
        text = _text_of(self._store_id)
        return text.strip() if text is not None else None

    def bind(self, store_id: str) -> str:
        with self._locked(fcntl.LOCK_EX):
            bound = self.store_id()
            if bound is None:
                bound = store_id
                _write(self._store_id, f"{store_id}\n")
        return bound

    def bind_anew(self, store_id: str) -> None:
        with self._locked(fcntl.LOCK_EX):
            _write(self._store_id, f"{store_id}\n")

    def age(self) -> int:
        text = _text_of(self._age) or ""
        return int(text) if text.strip().isdecimal() else 0

    def note_age(self, age: int) -> None:
        _write(self._age, f"{age}\n")

    def room(self) -> tuple[int, int] | None:
        try:
            found = shutil.disk_usage(self._looks.parent)
        except OSError:
            return None
        return found.total, found.free

    def check(self) -> None:
        with self.scratch_folder() as folder:
            (folder / "byte").write_bytes(b"\0")
            durable.sync(folder / "byte")

    def _adopt(self, file: Path, blob: BlobRef) -> None:
        with self._locked(fcntl.LOCK_SH):
            if self._content.holds(blob) or self._composed.size_bytes(blob.sha256) != blob.size_bytes:
                self._content.adopt(file, blob)
            else:
                self._composed.touch(blob.sha256)
                file.unlink()

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Keeps a sweep from deleting a blob while another process relies on it. The lock ends with its holder."""
        with self._lock.open("ab") as file:
            fcntl.flock(file, mode)
            yield


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    with durable.survives_power_cut(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _not_found(sha256: str) -> BlobNotFound:
    return BlobNotFound(f"no blob {sha256[:64]!r} is held here; ask for one that your task names")
