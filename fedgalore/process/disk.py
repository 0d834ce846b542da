"""How much room a disk has, and how one that takes nothing more shows in errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def takes_nothing(error: BaseException | None) -> bool:
    """Whether a disk, or a quota on it, has no room left, or can only be read; also where that is the cause of another
    error."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    message = str(error)  # safetensors writes files in Rust, and has the number in its message only
    shown = any(f"(os error {number})" in message for number in _NUMBERS)
    return shown or takes_nothing(error.__cause__ or error.__context__)


def free_bytes(folder: Path) -> int | None:
    """Of the disk that the folder is on, or will be, for this process; None where the system does not say."""
    try:
        status = os.statvfs(_there(folder))
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def writable(folder: Path) -> bool:
    """Whether this process may write into the folder, or make it."""
    return os.access(_there(folder), os.W_OK | os.X_OK)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)
