"""The agent's files, by content: downloaded blobs, base models put together from them, updates not yet accepted.

work_dir/blobs/sha256/ab/abcdef...           a blob
work_dir/blobs/partial/abcdef...             one on its way
work_dir/models/<hash of the file list>/...  a base model's folder
work_dir/updates/<job>+<round>+<client>.safetensors
work_dir/kept/<job>+<version>+<client>.safetensors   what a client keeps of the round that makes this model version
work_dir/lock                                taken by the process that works here
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
from dataclasses import dataclass
from pathlib import Path

from client_agent.errors import InvalidExchange, WorkDirUnusable
from fedgalore.model.folder import ModelFolderError, check_name

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SEPARATOR = "+"  # no name has one
_UPDATE_LIFE_S = 7 * 86_400.0  # longer than a round that an update could still be for
_KEPT_LIFE_S = 30 * 86_400.0  # a job may pause, and a client is not in every round


@dataclass(frozen=True)
class Blob:
    """A file by its content."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):  # it becomes part of a path
            raise InvalidExchange(f"the coordinator named a blob {self.sha256!r}, which is no SHA-256")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, blob: Blob) -> bool:
    """Whether the file at `path` is there and has this content."""
    return path.is_file() and path.stat().st_size == blob.size_bytes and hash_file(path) == blob.sha256


@contextmanager
def claimed(work_dir: Path) -> Iterator[None]:
    """Keeps other agents out of the folder; the system drops the lock of a process that is gone.

    Raises:
        WorkDirUnusable: another process works in this folder, or it cannot be made or written.
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
                f"work_dir: another agent works in {work_dir}; stop it, or give this one a folder of its own"
            ) from error
        yield


class Cache:
    """Everything an agent keeps on disk under `work_dir`. One process at a time: see `claimed`."""

    def __init__(self, work_dir: Path) -> None:
        self._blobs = work_dir / "blobs" / "sha256"
        self._partial = work_dir / "blobs" / "partial"
        self._models = work_dir / "models"
        self._updates = work_dir / "updates"
        self._kept = work_dir / "kept"
        for folder in (self._blobs, self._partial, self._models, self._updates, self._kept):
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, blob: Blob) -> Path | None:
        """The blob's file if it is here. Marks it as used, for `prune`."""
        path = self._path(blob)
        if not path.is_file() or path.stat().st_size != blob.size_bytes:
            return None
        os.utime(path)
        return path

    def partial(self, blob: Blob) -> Path:
        """Where the blob's bytes gather while it is fetched; may exist from an earlier attempt."""
        return self._partial / blob.sha256

    def adopt(self, blob: Blob) -> Path:
        """Makes the complete partial file a blob: checks its hash, syncs, renames.

        Raises:
            InvalidExchange: the bytes are not the blob's; they are removed.
        """
        partial, path = self.partial(blob), self._path(blob)
        if not holds(partial, blob):
            partial.unlink(missing_ok=True)
            raise InvalidExchange(f"what arrived as blob {blob.sha256[:12]} has another content")
        with partial.open("rb") as file:  # a renamed file that loses its content in a power cut would look whole
            os.fsync(file.fileno())
        path.parent.mkdir(exist_ok=True)
        return partial.replace(path)

    def prune(self, keep: Iterable[str], model: Path, max_bytes: int) -> None:
        """Deletes until, beside the blobs in `keep` and the files of `model`, `max_bytes` are left.

        First go blobs and parts of blobs that are in no model, then models, each longest unused first: old versions'
        weights are never asked for again, a base model may be. Updates that are too old for any round go as well, and
        what was kept for rounds that did not come.
        """
        spared = set(keep)
        self._prune_blobs(spared, model, max_bytes)
        for folder in sorted(self._models.iterdir(), key=_last_used):
            if folder != model and self._excess(spared, model, max_bytes) > 0:
                shutil.rmtree(folder)
                self._prune_blobs(spared, model, max_bytes)  # now those that were linked from there only
        for files, life_s in ((self._updates, _UPDATE_LIFE_S), (self._kept, _KEPT_LIFE_S)):
            for path in files.iterdir():
                if time.time() - _last_used(path) > life_s:
                    path.unlink()

    def _prune_blobs(self, spared: set[str], model: Path, max_bytes: int) -> None:
        excess = self._excess(spared, model, max_bytes)
        for path in sorted((*_files(self._blobs), *_files(self._partial)), key=_last_used):
            # A linked one is in a model: deleting it here frees nothing.
            if excess > 0 and path.name not in spared and path.stat().st_nlink == 1:
                excess -= path.stat().st_size
                path.unlink()

    def _excess(self, spared: set[str], model: Path, max_bytes: int) -> int:
        """Bytes too many; a file that is linked twice takes its room once."""
        used = {path.stat().st_ino for path in _files(model)}
        stored = [*_files(self._blobs), *_files(self._partial), *_files(self._models)]
        sizes = {path.stat().st_ino: path.stat().st_size for path in stored if path.name not in spared}
        return sum(size for inode, size in sizes.items() if inode not in used) - max_bytes

    def model_folder(self, files: Mapping[str, Blob]) -> Path:
        """Where the base model made of these files belongs.

        Raises:
            InvalidExchange: a file name leads out of the folder, or is that of a pickle, a program or anything else
                unusual.
        """
        for name in files:
            try:
                check_name(name)
            except ModelFolderError as error:
                raise InvalidExchange(f"the coordinator named a bad model file: {error}") from error
        listing = "\n".join(f"{name}\0{blob.sha256}" for name, blob in sorted(files.items()))
        return self._models / hashlib.sha256(listing.encode()).hexdigest()

    def has_model(self, files: Mapping[str, Blob]) -> bool:
        """Whether the base model's folder stands complete; reads every file to be sure, and marks it as used."""
        folder = self.model_folder(files)
        if not folder.is_dir() or not all(holds(folder / name, blob) for name, blob in files.items()):
            return False
        os.utime(folder)
        return True

    def assemble_model(self, files: Mapping[str, Blob], sources: Mapping[str, Path]) -> Path:
        """Puts a base model's folder together from files by hash; appears whole or not at all.

        Own blobs are hard links (copies where the file system has none), files from elsewhere symbolic links.
        """
        folder = self.model_folder(files)
        draft = folder.with_suffix(".draft")
        for leftover in (draft, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        for name, blob in files.items():
            source, target = sources[blob.sha256], draft / name
            if source != self._path(blob):
                target.symlink_to(source.resolve())
                continue
            try:
                target.hardlink_to(source)
            except OSError:
                with source.open("rb") as original, target.open("xb") as copy:  # never into a file that is there
                    shutil.copyfileobj(original, copy)
        return draft.replace(folder)

    def update(self, client: str, job_id: str, round_number: int) -> Path:
        """Where this client's update of a round lies from the end of training until it is accepted.

        Raises:
            InvalidExchange: the job id cannot be part of a file name.
        """
        return self._updates / _file_name(client, job_id, round_number)

    def kept(self, client: str, job_id: str, version: int) -> Path:
        """Where this client keeps what it wants to know in its next round of the one that makes this model version.

        By version, not by round: what came of an abandoned round is not read by its successor, but overwritten.

        Raises:
            InvalidExchange: as `update`.
        """
        return self._kept / _file_name(client, job_id, version)

    def last_kept(self, client: str, job_id: str, version: int) -> Path | None:
        """What the client kept beside the update that is in model version `version`; deletes all else of the job.

        None where there is nothing, or no longer. Later ones stand beside updates that came too late for their rounds.
        """
        path = self.kept(client, job_id, version)
        self.forget_kept(client, job_id, but=path)
        if not path.is_file():
            return None
        os.utime(path)  # for `prune`
        return path

    def forget_kept(self, client: str, job_id: str, but: Path | None = None) -> None:
        """Deletes all that this client kept for its next rounds of a job, or all but one."""
        for path in self._kept.glob(_file_name(client, job_id, "*")):  # no name has a wildcard in it
            if path != but:
                path.unlink()

    def forget_updates(self, job_id: str, but: Path | None = None) -> None:
        """Deletes all updates of a job, or all but one."""
        for path in self._updates.glob(f"{job_id}{_SEPARATOR}*"):
            if path != but:
                path.unlink()

    def _path(self, blob: Blob) -> Path:
        return self._blobs / blob.sha256[:2] / blob.sha256


def _file_name(client: str, job_id: str, number: int | str) -> str:
    if not _NAME.fullmatch(job_id):
        raise InvalidExchange(f"the coordinator named a job {job_id!r}, which is no identifier")
    return f"{_SEPARATOR.join((job_id, str(number), client))}.safetensors"


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that take room there: not those that are only named by a symbolic link."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _last_used(path: Path) -> float:
    return path.stat().st_mtime


def find_local(folders: Iterable[Path], wanted: Iterable[Blob]) -> dict[str, Path]:
    """SHA-256 -> file, for every wanted blob that some file under `folders` equals."""
    by_size: dict[int, set[str]] = {}
    for blob in wanted:
        by_size.setdefault(blob.size_bytes, set()).add(blob.sha256)
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if (
                path.is_file()
                and (hashes := by_size.get(path.stat().st_size))
                and (digest := hash_file(path)) in hashes
            ):
                found.setdefault(digest, path)
    return found
