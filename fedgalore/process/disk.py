"""How a disk that takes nothing more shows in errors."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS,)


def is_full(error: BaseException | None) -> bool:
    """Whether a disk, or a quota on it, has no room left; also where that is the cause of another error."""
    return _has(error, _FULL)


def takes_nothing(error: BaseException | None) -> bool:
    """As `is_full`; also whether the file system can only be read."""
    return _has(error, _FULL + _READ_ONLY)


def _has(error: BaseException | None, numbers: tuple[int, ...]) -> bool:
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    message = str(error)  # safetensors writes files in Rust, and has the number in its message only
    shown = any(f"(os error {number})" in message for number in numbers)
    return shown or _has(error.__cause__ or error.__context__, numbers)
