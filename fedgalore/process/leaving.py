"""How a process ends: at once where it has loaded much, and in time where a thread of it hangs."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from typing import Final

import structlog

STOP_S: Final = 60.0  # from the wish to stop until a process ends, whatever its threads do
HUNG: Final = 70  # its exit status then: EX_SOFTWARE

_log = structlog.get_logger(__name__)


def end_at_once() -> None:
    """Spares the interpreter the search for cycles as it ends: 1.4 s of a processor in torch and transformers."""
    atexit.register(gc.freeze)


def end_within(seconds: float = STOP_S) -> None:
    """Ends this process with `HUNG` when it has not ended by itself by then.

    A thread that waits for a disk that answers no more cannot be stopped, and an interpreter waits for it. What it was
    at is lost as by a kill, which every process here is made for.
    """
    watch = threading.Timer(seconds, _end, [seconds])
    watch.daemon = True
    watch.start()


def _end(seconds: float) -> None:
    names = sorted(each.name for each in threading.enumerate() if not each.daemon)
    _log.critical("stop_forced", after_s=seconds, reason=f"threads do not end: {', '.join(names)}; is a disk away?")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(HUNG)
