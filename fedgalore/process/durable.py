"""Files that are there whole or not at all, in two strengths; each function's name says what it promises.

A file is written as a draft beside its place and renamed when it is complete. So it *appears whole*: whoever reads the
place meets what was there before or all that is new. The bytes and the name reach the disk in an order of the system's
own choice, however, and later. What has to *survive a power cut* is synced before it is renamed, and its folder after.

One writer at a time may write a path. A writer that was killed leaves `<name>.draft`, which the next one takes away.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ANYBODY = 0o666  # readable by whomever the umask of the process lets read
SECRET = 0o600  # readable by its owner alone


@contextmanager
def appears_whole(path: Path, mode: int = ANYBODY) -> Iterator[Path]:
    """Yields a draft to write; when the block ends it takes the place of `path`, when the block raises it is deleted.

    After a power cut the file may be empty or missing: use `survives_power_cut` for what nobody would write again.

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
    """As `appears_whole`; and once the block has been left, the file is on the disk under its name.

    A power cut before that leaves what was there before, or the whole new file.
    """
    with appears_whole(path, mode) as draft:
        yield draft
        sync(draft)
    sync(path.parent)


@contextmanager
def new_file_survives_power_cut(path: Path, mode: int = ANYBODY) -> Iterator[BinaryIO]:
    """Yields a new file, open to be written; it is on the disk once the block has been left, and gone if that raises.

    Unlike a draft it stands from the start: whoever needs the place for what can be had only once, makes sure of it.

    Raises:
        FileExistsError: something has this name already; it is left alone.
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
    """Yields an empty folder to fill; when the block ends it is renamed to `path`, when the block raises it is deleted.

    Until then it lies in a folder `.<name>-<random>` beside `path` that only its owner can enter. Nothing is synced.

    Raises:
        OSError: `path` is there and is no empty folder, the folder above it is missing, or the disk refuses.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as surrounding:
        draft = Path(surrounding) / "files"
        draft.mkdir()
        yield draft
        draft.replace(path)


def make_folder(folder: Path) -> None:
    """Makes the folder unless it is there; it survives a power cut, also where another process has just made it.

    Raises:
        OSError: the folder above it is missing, or the disk refuses.
    """
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Puts a file's bytes, or a folder's names, on the disk.

    Raises:
        OSError: it is not there, or the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
