"""How a full disk shows in errors."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether a disk, or a quota on it, has no room left; also where that is the cause of another error."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    message = str(error)  # safetensors writes files in Rust, and has the number in its message only
    return any(f"(os error {number})" in message for number in _FULL) or is_full(error.__cause__ or error.__context__)
