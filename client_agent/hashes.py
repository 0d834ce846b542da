"""SHA-256 of large files that seldom change, remembered across restarts: reading 16 GB takes a minute and more.

A file counts as unchanged while its path, size, times and inode are those that it had when it was read.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from fedgalore.process import durable
from fedgalore.process.content_folder import hash_file

SETTLED_S = 2.0  # a file that was written to more lately may be written to again at the same time of its clock

_Stamp = list[int]  # size, times of the content and of the inode in ns, number of the inode


class Hashes:
    """Hashes by path, kept in a file; one that cannot be read or written costs time only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[_Stamp, str]] = _read(path)

    def of(self, file: Path) -> str:
        """The file's hash in lower-case hexadecimal digits.

        Raises:
            OSError: the file cannot be read.
        """
        name, stamp = str(file.absolute()), _stamp(file)
        stamped, sha256 = self._known.get(name, ([], ""))
        if stamped != stamp:
            sha256 = hash_file(file)
            if _stamp(file) == stamp and time.time_ns() - max(stamp[1:3]) > SETTLED_S * 1e9:
                self._known[name] = stamp, sha256
                self._write()
        return sha256

    def _write(self) -> None:
        there = {name: entry for name, entry in self._known.items() if Path(name).exists()}
        try:
            with durable.appears_whole(self._path) as draft:
                draft.write_text(json.dumps(there), encoding="utf-8")
        except OSError:
            return


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: Path) -> dict[str, tuple[_Stamp, str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (list(stamp), str(sha256)) for name, (stamp, sha256) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
