"""How memory that is too small shows in errors: of Python, of numpy, of torch on a CPU and on a GPU."""

from __future__ import annotations

import errno

_WORDS = ("out of memory", "t allocate memory", "cannot allocate memory", "bad_alloc", "_alloc_failed")


def is_short(error: BaseException | None) -> bool:
    """Whether there was too little memory; also where that is the cause of another error.

    torch says so by its own class on a GPU only: on a CPU it is a plain `RuntimeError`.
    """
    if error is None:
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    message = str(error).lower()
    shown = any(words in message for words in _WORDS)
    return shown or is_short(error.__cause__ or error.__context__)
