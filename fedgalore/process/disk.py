"""How a disk that takes nothing more shows in errors."""

from __future__ import annotations

import errno

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
