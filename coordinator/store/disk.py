"""A disk without room, however that is told."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether a disk, or a quota on it, has no room left; whoever met that first may be the cause of others."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    told = str(error)  # safetensors writes in Rust and tells the number in words
    return any(f"(os error {number})" in told for number in _FULL) or is_full(error.__cause__ or error.__context__)
