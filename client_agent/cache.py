"""The agent's files, by content: downloaded blobs, base models put together from them, updates not yet accepted.

work_dir/blobs/sha256/ab/abcdef...           a blob
work_dir/blobs/partial/abcdef...             one on its way
work_dir/models/<hash of the file list>/...  a base model's folder
work_dir/updates/<client>.<job>.<round>.safetensors
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client_agent.errors import Rejected

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Blob:
    """A file by its content."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):  # it becomes part of a path
            raise Rejected(f"the coordinator named a blob {self.sha256!r}, which is no SHA-256")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, blob: Blob) -> bool:
    """Whether the file at `path` is there and has this content."""
    return path.is_file() and path.stat().st_size == blob.size_bytes and hash_file(path) == blob.sha256


class Cache:
    """Everything an agent keeps on disk under `work_dir`. One process at a time."""

    def __init__(self, work_dir: Path) -> None:
        self._blobs = work_dir / "blobs" / "sha256"
        self._partial = work_dir / "blobs" / "partial"
        self._models = work_dir / "models"
        self._updates = work_dir / "updates"
        for folder in (self._blobs, self._partial, self._models, self._updates):
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
            Rejected: the bytes are not the blob's; they are removed.
        """
        partial, path = self.partial(blob), self._path(blob)
        if not holds(partial, blob):
            partial.unlink(missing_ok=True)
            raise Rejected(f"what arrived as blob {blob.sha256[:12]} has another content")
        with partial.open("rb") as file:  # a renamed file that loses its content in a power cut would look whole
            os.fsync(file.fileno())
        path.parent.mkdir(exist_ok=True)
        return partial.replace(path)

    def prune(self, keep: Iterable[str], max_bytes: int) -> None:
        """Deletes blobs (and parts of blobs), longest unused first, until `max_bytes` are left.

        Spares the hashes in `keep`. A blob that a model's folder links to is not counted: deleting it frees nothing.
        """
        spared = set(keep)
        files = [path for folder in (self._blobs, self._partial) for path in folder.rglob("*") if path.is_file()]
        stats = sorted(((path, path.stat()) for path in files), key=lambda item: item[1].st_mtime)
        own = [(path, stat.st_size) for path, stat in stats if stat.st_nlink == 1]
        total = sum(size for _, size in own)
        for path, size in own:
            if total <= max_bytes:
                return
            if path.name not in spared:
                path.unlink()
                total -= size

    def model_folder(self, files: Mapping[str, Blob]) -> Path:
        """Where the base model made of these files belongs.

        Raises:
            Rejected: a file name leads out of the folder.
        """
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
                raise Rejected(f"the coordinator named a model file {name!r}, which is no path inside a folder")
        listing = "\n".join(f"{name}\0{blob.sha256}" for name, blob in sorted(files.items()))
        return self._models / hashlib.sha256(listing.encode()).hexdigest()

    def has_model(self, files: Mapping[str, Blob]) -> bool:
        """Whether the base model's folder stands complete; reads every file to be sure."""
        folder = self.model_folder(files)
        return folder.is_dir() and all(holds(folder / name, blob) for name, blob in files.items())

    def assemble_model(self, files: Mapping[str, Blob], sources: Mapping[str, Path]) -> Path:
        """Puts a base model's folder together from files by hash; appears whole or not at all.

        Own blobs are hard links (copies where the file system has none), files from elsewhere symbolic links.
        """
        folder = self.model_folder(files)
        draft = folder.with_suffix(".draft")
        for leftover in (draft, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        for name, blob in files.items():
            source, target = sources[blob.sha256], draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source != self._path(blob):
                target.symlink_to(source.resolve())
                continue
            try:
                target.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, target)
        return draft.replace(folder)

    def update(self, client: str, job_id: str, round_number: int) -> Path:
        """Where this client's update of a round lies from the end of training until it is accepted.

        Raises:
            Rejected: the job id can not be part of a file name.
        """
        if not _NAME.fullmatch(job_id):
            raise Rejected(f"the coordinator named a job {job_id!r}, which is no identifier")
        return self._updates / f"{client}.{job_id}.{round_number}.safetensors"

    def forget_updates(self, but: Path | None = None) -> None:
        """Deletes all updates, or all but one."""
        for path in self._updates.iterdir():
            if path != but:
                path.unlink()

    def _path(self, blob: Blob) -> Path:
        return self._blobs / blob.sha256[:2] / blob.sha256


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
