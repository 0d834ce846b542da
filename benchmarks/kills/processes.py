"""Descendants of a process that this one started: finding, killing and reaping them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent dies, so that it can reap them at once.

    Flower's processes watch whether their parent's id exists. A zombie's id exists, and some containers' init is slow
    to reap zombies.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Ids of a process's children; none if the process is gone."""
    pids = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            pids += [int(child) for child in listed.read_text().split()]
    return pids


def descendants(pid: int) -> list[int]:
    """Ids of a process's descendants, parents before their children."""
    pids = []
    for child in children(pid):
        pids += [child, *descendants(child)]
    return pids


def is_running(pid: int, program: str) -> bool:
    """Whether the process lives and has the program's name in its command; a zombie has no command."""
    try:
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def reap(orphans: Iterable[int]) -> list[int]:
    """Reaps those adopted orphans that have ended. Returns the others."""
    left = []
    for pid in orphans:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                left.append(pid)
        except ChildProcessError:  # not ours yet, or reaped by its own parent
            if Path(f"/proc/{pid}").exists():
                left.append(pid)
    return left


def end(orphans: Iterable[int], patience_s: float = 5.0) -> None:
    """Waits until the orphans have ended by themselves, and kills those that are too slow."""
    left = reap(orphans)
    stop = time.monotonic() + patience_s
    while left and time.monotonic() < stop:
        time.sleep(0.05)
        left = reap(left)
    ours = descendants(os.getpid())
    for pid in left:
        if pid in ours:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    while left and time.monotonic() < stop + patience_s:
        time.sleep(0.05)
        left = reap(left)
