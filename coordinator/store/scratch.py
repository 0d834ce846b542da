"""Folders for work in progress, below one root: each with a lock that its owner holds, and his files in `files/`."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Scratch:
    """Scratch folders that several processes make; those of killed processes can be told from those at work."""

    def __init__(self, root: Path) -> None:
        """Makes the root.

        Raises:
            OSError: it cannot be made.
        """
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new, empty folder; gone at the end.

        Raises:
            OSError: it cannot be made.
        """
        with tempfile.TemporaryDirectory(dir=self._root) as scratch:
            files = Path(scratch) / "files"
            files.mkdir()
            # A file is locked, and not the folder: network disks know no locks on folders.
            with (Path(scratch) / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield files

    def sweep(self, before: float) -> None:
        """Deletes folders of killed processes that have not changed since `before`, in seconds since the epoch."""
        for scratch in self._root.iterdir():
            with suppress(FileNotFoundError):  # its owner may be alive and just done with it
                if scratch.stat().st_mtime < before and not _has_owner(scratch):
                    shutil.rmtree(scratch)


def _has_owner(scratch: Path) -> bool:
    """Whether a process still works in this folder; the system drops the lock of one that is gone."""
    try:
        with (scratch / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
