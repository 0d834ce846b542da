"""A work folder whose disk takes nothing more: how it is noticed, what is said of it, and how long it is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from client_agent.errors import NoRoom, WorkDirUnusable
from fedgalore.process.disk import free_bytes, takes_nothing
from fedgalore.spec.amounts import size

PATIENCE_S = 60.0
FIRST_WAIT_S = 1.0
_log = structlog.get_logger(__name__)


def waits(limit_s: float) -> Iterator[float]:
    """Seconds to wait before each try, twice as long each time, as long as they come to no more than the limit."""
    wait_s, waited_s = FIRST_WAIT_S, 0.0
    while waited_s + wait_s <= limit_s:
        yield wait_s
        waited_s += wait_s
        wait_s *= 2


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises `NoRoom`, which names no path of the site, where the folder's disk has less room than `what` needs."""
    free = free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise NoRoom(
            f"work_dir: its disk has {size(free)} free, and {what} needs {size(needed_bytes)}; make room there, or "
            "give the agent a work_dir on another disk"
        )


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turns an error of a disk that is full, beyond its quota or read-only into `NoRoom`, which names no path."""
    try:
        yield
    except NoRoom:
        raise
    except Exception as error:
        if not takes_nothing(error):
            raise
        free = free_bytes(folder)
        left = "" if free is None else f", {size(free)} free"
        raise NoRoom(
            f"work_dir: its disk takes no more files ({_why(error)}{left}); make room there, or give the agent a "
            "work_dir on another disk"
        ) from error


def wait_for_room(folder: Path, action: Callable[[], None]) -> None:
    """Does something that writes to the folder, waiting for room before it gives up.

    Raises:
        WorkDirUnusable: there was none for `PATIENCE_S`.
    """
    tries = waits(PATIENCE_S)
    while True:
        try:
            with room_in(folder):
                return action()
        except NoRoom as error:
            wait_s = next(tries, None)
            if wait_s is None:
                raise WorkDirUnusable(f"{error} ({folder})") from error
            _log.warning("no_room", folder=str(folder), reason=str(error), again_in_s=wait_s)
            time.sleep(wait_s)


def _why(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
