"""How much memory a process may have, and how too little shows in errors: of Python, numpy, torch on a CPU or a GPU."""

from __future__ import annotations

import errno
import re
import resource
from pathlib import Path

from fedgalore.process.cgroups import ROOT, groups, read

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


def anonymous_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process may have for itself now, with what it has: what its machine, its control groups and its
    own limits leave. None where none of them says.

    Processes beside it in the same group are not counted.
    """
    free, own = _told(read(root / "proc/meminfo"), "MemAvailable"), _told(read(root / "proc/self/status"), "RssAnon")
    limits = [] if free is None else [free + (own or 0)]
    limits += [limit for folder in groups(root, "memory") if (limit := _limit(folder)) is not None]
    soft = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)


def _limit(folder: Path) -> int | None:
    """Of one control group: `memory.max` of version 2, `memory.limit_in_bytes` of version 1."""
    word = read(folder / "memory.max").strip() or read(folder / "memory.limit_in_bytes").strip()
    return int(word) if word.isdecimal() else None  # such as `max`: no limit


def _told(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
