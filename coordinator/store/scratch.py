"""Scratch folders below a root, for work in progress.

root/<random>/lock     held by the process that works there
root/<random>/files/   its files
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Scratch:
    """Creates scratch folders for several processes, and deletes those whose process was killed."""

    def __init__(self, root: Path) -> None:
        """Creates the root.

        Raises:
            OSError: the root cannot be created.
        """
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new, empty folder, which is deleted at the end.

        What cannot be deleted then is left to `sweep`: a network disk keeps a mapped file, by another name.

        Raises:
            OSError: the folder cannot be created.
        """
        with tempfile.TemporaryDirectory(dir=self._root, ignore_cleanup_errors=True) as scratch:
            files = Path(scratch) / "files"
            files.mkdir()
            # The lock is on a file, because network disks have no locks on folders.
            with (Path(scratch) / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield files

    def holds(self, path: Path) -> bool:
        """Whether a path is below the root, so on its disk, in a folder that nobody sweeps while it is worked in."""
        return self._root in path.parents

    def sweep(self, before: float) -> None:
        """Deletes folders of killed processes that have not changed since `before`, in seconds since the epoch."""
        for scratch in self._root.iterdir():
            with suppress(FileNotFoundError):  # its process may be alive and have deleted it just now
                if scratch.stat().st_mtime < before and not _is_in_use(scratch):
                    shutil.rmtree(scratch)


def _is_in_use(scratch: Path) -> bool:
    """Whether a process still works in this folder. The system drops the lock of a process that has ended."""
    try:
        with (scratch / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
