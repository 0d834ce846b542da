"""Files that are there whole or not at all. There are two promises; the name of each function says which it keeps.

A file is written as a draft beside its path, and renamed when it is complete. So it *appears whole*: a reader sees the
old file or the whole new file. But bytes and names reach the disk later, in an order that the system chooses. A file
that has to *survive a power cut* is synced before the rename, and its folder is synced after it.

At most one writer at a time may write a path. A writer that was killed leaves `<name>.draft`, which the next writer
deletes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ANYBODY = 0o666  # less the process's umask
SECRET = 0o600  # only the owner may read and write
_on_disk: set[Path] = set()  # folders whose names this process has put on the disk


@contextmanager
def appears_whole(path: Path, mode: int = ANYBODY) -> Iterator[Path]:
    """Yields a draft to write. It replaces `path` when the block ends, and is deleted when the block raises.

    After a power cut the file may be empty or missing. Use `survives_power_cut` for a file that nobody writes again.

    Args:
        mode: permissions of the file.

    Raises:
        OSError: the folder is missing, or the disk refuses.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def survives_power_cut(path: Path, mode: int = ANYBODY) -> Iterator[Path]:
    """As `appears_whole`. Once the block has been left, the file is on the disk under its name.

    A power cut before that leaves the old file or the whole new file.
    """
    with appears_whole(path, mode) as draft:
        yield draft
        sync(draft)
    sync(path.parent)


@contextmanager
def new_file_survives_power_cut(path: Path, mode: int = ANYBODY) -> Iterator[BinaryIO]:
    """Yields a new file to write. Once the block has been left, it is on the disk; it is deleted if the block raises.

    The file has its name from the start: the caller knows that it can be written before there is a secret to lose.

    Raises:
        FileExistsError: `path` exists already, and is left alone.
        OSError: the folder is missing, or the disk refuses.
    """
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def folder_appears_whole(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill. It is renamed to `path` when the block ends, and deleted when the block raises.

    Until then it lies in a folder `.<name>-<random>` beside `path`, which only its owner can enter. Nothing is synced.

    Raises:
        OSError: `path` exists and is not an empty folder, the folder above it is missing, or the disk refuses.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as surrounding:
        draft = Path(surrounding) / "files"
        draft.mkdir()
        yield draft
        draft.replace(path)


def make_folder(folder: Path) -> None:
    """Creates the folder unless it exists. It survives a power cut, also if another process has just created it.

    For folders that nobody deletes: one that this process has put on the disk counts as there for good.

    Raises:
        OSError: the folder above it is missing, or the disk refuses.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if folder in _on_disk:
            return
        if not folder.is_dir():
            raise
    sync(folder.parent)
    _on_disk.add(folder)


def sync(path: Path) -> None:
    """Puts a file's bytes, or the names in a folder, on the disk.

    Raises:
        OSError: `path` does not exist, or the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
