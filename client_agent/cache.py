"""The agent's files: downloaded blobs, base models assembled from them, updates that are not accepted yet.

work_dir/blobs/sha256/ab/abcdef...           a blob
work_dir/blobs/partial/abcdef...             a blob that is being received
work_dir/models/<hash of the file list>/...  a base model's folder
work_dir/updates/<job>+<version and start>+<client>.safetensors
work_dir/kept/<job>+<version>+<client>.safetensors   what a client keeps of the round that leads to this model version
work_dir/hashes.json                         hashes of large files that were read once, here and elsewhere
work_dir/begun.json                          the task whose first step has not ended, and how often it was begun
work_dir/held/<job>.weights, .json           the global weights of the version that is held; which one that is
work_dir/site.log                            what jobs did here: `client_agent.site_log`
work_dir/lock                                held by the agent's process
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from client_agent.begun import Begun
from client_agent.errors import InvalidExchange, WorkDirUnusable
from client_agent.hashes import Hashes
from fedgalore.model.folder import ModelFolderError, check_name
from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ContentFolder, has_content

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SEPARATOR = "+"  # no name has one
_HELD = ".weights"
_UPDATE_LIFE_S = 7 * 86_400.0  # longer than any round in which the update could be accepted
_KEPT_LIFE_S = 30 * 86_400.0  # a job may pause, and a client is not in every round


def blob_named(sha256: str, size_bytes: int) -> BlobRef:
    """A blob as the coordinator names it.

    Raises:
        InvalidExchange: `sha256` is no hash; it must not become part of a path.
    """
    try:
        return BlobRef(sha256, size_bytes)
    except ValueError as error:
        raise InvalidExchange(f"the coordinator named a bad blob: {error}") from error


@contextmanager
def claimed(work_dir: Path) -> Iterator[None]:
    """Keeps other agents out of the folder. The system drops the lock of a process that has ended.

    Raises:
        WorkDirUnusable: another process works in this folder, or the folder cannot be created or written.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        lock = (work_dir / "lock").open("ab")
    except OSError as error:
        raise WorkDirUnusable(f"work_dir: {work_dir} cannot be written ({error}); correct the path") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkDirUnusable(
                f"work_dir: another agent works in {work_dir}; stop it, or give this agent another folder"
            ) from error
        yield


class Cache:
    """Everything that an agent keeps on disk under `work_dir`. A single process uses it: see `claimed`."""

    def __init__(self, work_dir: Path) -> None:
        self._content = ContentFolder(work_dir / "blobs")
        self._models = work_dir / "models"
        self._updates = work_dir / "updates"
        self._kept = work_dir / "kept"
        self.hashes = Hashes(work_dir / "hashes.json")
        self.begun = Begun(work_dir / "begun.json")
        self._held = work_dir / "held"
        for folder in (self._models, self._updates, self._kept, self._held):
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, blob: BlobRef) -> Path | None:
        """The blob's file, or None where the cache lacks it. Marks the file as used, for `prune`."""
        if not self._content.holds(blob):
            return None
        path = self._content.path(blob.sha256)
        os.utime(path)
        return path

    def partial(self, blob: BlobRef) -> Path:
        """The file that receives the blob's bytes. It may exist from an earlier attempt."""
        return self._content.partial_path(blob.sha256)

    def missing_bytes(self, blob: BlobRef) -> int:
        """How much of the blob is still to be fetched."""
        if self._content.holds(blob):
            return 0
        here = self.partial(blob)
        return blob.size_bytes - (here.stat().st_size if here.exists() else 0)

    def adopt(self, blob: BlobRef) -> Path:
        """Checks the hash of the complete partial file and turns it into the blob. Returns the blob's path.

        Raises:
            InvalidExchange: the bytes are not the blob's. The partial file is deleted.
        """
        partial = self.partial(blob)
        if not has_content(partial, blob):
            partial.unlink(missing_ok=True)
            raise InvalidExchange(f"what arrived as blob {blob.sha256[:12]} has another content")
        return self._content.adopt(partial, blob)

    def held(self, job_id: str) -> Path:
        """The file of the version of a job that this agent holds.

        Raises:
            InvalidExchange: the job id cannot be part of a file name.
        """
        return self._held / f"{_checked(job_id)}{_HELD}"

    def prune(self, keep: Iterable[str], model: Path, max_bytes: int, held: Path | None = None) -> None:
        """Deletes files until at most `max_bytes` are left beside the blobs in `keep`, the files of `model` and `held`.

        Versions of other jobs, blobs and partial files that are in no model go first, then models; of each, the longest
        unused first. Weights of old versions are never needed again, a base model may be. Updates that are too old for
        any round are deleted as well, and files kept for rounds that never came.
        """
        spared = {*keep, held.name} if held else set(keep)
        self._prune_blobs(spared, model, max_bytes)
        for folder in sorted(self._models.iterdir(), key=_last_used):
            if folder != model and self._excess(spared, model, max_bytes) > 0:
                shutil.rmtree(folder)
                self._prune_blobs(spared, model, max_bytes)  # now blobs that only this model linked to
        for files, life_s in ((self._updates, _UPDATE_LIFE_S), (self._kept, _KEPT_LIFE_S)):
            for path in files.iterdir():
                if time.time() - _last_used(path) > life_s:
                    path.unlink()

    def _prune_blobs(self, spared: set[str], model: Path, max_bytes: int) -> None:
        excess = self._excess(spared, model, max_bytes)
        for path in sorted(self._evictable(), key=_last_used):
            # A blob with a second link is in a model: deleting the first link frees nothing.
            if excess > 0 and path.name not in spared and path.stat().st_nlink == 1:
                excess -= path.stat().st_size
                path.unlink()
                if path.suffix == _HELD:
                    path.with_suffix(".json").unlink(missing_ok=True)

    def _evictable(self) -> Iterator[Path]:
        """Versions of jobs, blobs, and blobs that are being received."""
        yield from self._held.glob(f"*{_HELD}")
        yield from _files(self._content.blobs)
        yield from _files(self._content.partial)

    def _excess(self, spared: set[str], model: Path, max_bytes: int) -> int:
        """Bytes above `max_bytes`. A file with two links is counted once."""
        used = {path.stat().st_ino for path in _files(model)}
        stored = [*self._evictable(), *_files(self._models)]
        sizes = {path.stat().st_ino: path.stat().st_size for path in stored if path.name not in spared}
        return sum(size for inode, size in sizes.items() if inode not in used) - max_bytes

    def model_folder(self, files: Mapping[str, BlobRef]) -> Path:
        """The place of the base model that consists of these files.

        Raises:
            InvalidExchange: a file's name leads out of the folder, or is not that of a model's file.
        """
        for name in files:
            try:
                check_name(name)
            except ModelFolderError as error:
                raise InvalidExchange(f"the coordinator named a bad model file: {error}") from error
        return self._models / hash_of_files(files)

    def has_model(self, files: Mapping[str, BlobRef]) -> bool:
        """Whether the base model's folder is complete. Reads every file that is new or has changed since; marks the
        folder as used.
        """
        folder = self.model_folder(files)
        if not all(_is_content(folder / name, blob, self.hashes) for name, blob in files.items()):
            return False
        os.utime(folder)
        return True

    def assemble_model(self, files: Mapping[str, BlobRef], sources: Mapping[str, Path]) -> Path:
        """Assembles a base model's folder from files by hash. The folder appears whole or not at all.

        Blobs of this cache become hard links, or copies where the file system has no hard links. Files from elsewhere
        become symbolic links.
        """
        folder = self.model_folder(files)
        for leftover in (folder, *self._models.glob(f".{folder.name}-*")):  # drafts of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with durable.folder_appears_whole(folder) as draft:
            for name, blob in files.items():
                source = sources[blob.sha256]
                if source == self._content.path(blob.sha256):
                    _link_or_copy(source, draft / name)
                else:
                    (draft / name).symlink_to(source.resolve())
        return folder

    def update(self, client: str, job_id: str, version: int | str) -> Path:
        """The file of this client's update for a version, from the end of training until the update is accepted.

        Raises:
            InvalidExchange: the job id cannot be part of a file name.
        """
        return self._updates / _file_name(client, job_id, version)

    def kept(self, client: str, job_id: str, version: int | str) -> Path:
        """The file in which this client keeps, for its next round, what it needs of the round that led to `version`.

        The file is named by version, not by round, so that the successor of an abandoned round overwrites it.

        Raises:
            InvalidExchange: as `update`.
        """
        return self._kept / _file_name(client, job_id, version)

    def last_kept(self, client: str, job_id: str, version: int | str) -> Path | None:
        """What the client kept beside its update in model version `version`; None where there is no such file.

        Deletes the client's other files of the job: later versions belong to updates that came too late.
        """
        path = self.kept(client, job_id, version)
        self.forget_kept(client, job_id, but=path)
        if not path.is_file():
            return None
        os.utime(path)  # for `prune`
        return path

    def forget_kept(self, client: str, job_id: str, but: Path | None = None) -> None:
        """Deletes all files that this client kept for its next rounds of a job, except `but`."""
        name = _file_name(client, job_id, "*")  # no name has a wildcard in it
        drafts = self._kept.glob(f"{name}.draft")  # of a process that was killed
        for path in (*self._kept.glob(name), *drafts):
            if path != but:
                path.unlink()

    def forget_updates(self, job_id: str, but: Path | None = None) -> None:
        """Deletes all updates of a job, except `but`."""
        for path in self._updates.glob(f"{job_id}{_SEPARATOR}*"):
            if path != but:
                path.unlink()


def _file_name(client: str, job_id: str, number: int | str) -> str:
    return f"{_SEPARATOR.join((_checked(job_id), str(number), client))}.safetensors"


def _checked(job_id: str) -> str:
    if not _NAME.fullmatch(job_id):
        raise InvalidExchange(f"the coordinator named a job {job_id!r}, which is no identifier")
    return job_id


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that take room there. Targets of symbolic links take room elsewhere."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        with source.open("rb") as original, target.open("xb") as copy:  # never into a file that is there
            shutil.copyfileobj(original, copy)


def _last_used(path: Path) -> float:
    return path.stat().st_mtime


def _is_content(path: Path, blob: BlobRef, hashes: Hashes) -> bool:
    return path.is_file() and path.stat().st_size == blob.size_bytes and hashes.of(path) == blob.sha256


def hash_of_files(files: Mapping[str, BlobRef]) -> str:
    """The hash of a base model: of the names of its files and their hashes, in hexadecimal digits."""
    listing = "\n".join(f"{name}\0{blob.sha256}" for name, blob in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def find_local(folders: Iterable[Path], wanted: Iterable[BlobRef], hashes: Hashes) -> dict[str, Path]:
    """Files under `folders` that equal a wanted blob, by SHA-256."""
    by_size: dict[int, set[str]] = {}
    for blob in wanted:
        by_size.setdefault(blob.size_bytes, set()).add(blob.sha256)
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if (
                path.is_file()
                and (of_size := by_size.get(path.stat().st_size))
                and (digest := hashes.of(path)) in of_size
            ):
                files.setdefault(digest, path)
    return files
