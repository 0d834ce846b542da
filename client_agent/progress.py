"""How far a download has come: a sign of life, and for a long one a line in the log every few seconds."""

from __future__ import annotations

import time

import structlog

from client_agent.retries import Patience
from fedgalore.spec.amounts import size

EVERY_S = 5.0
_log = structlog.get_logger(__name__)


class Progress:
    """Of one file; nothing is told of one that arrives before the first line is due."""

    def __init__(self, what: str, size_bytes: int, patience: Patience) -> None:
        self._what = what
        self._size_bytes = size_bytes
        self._patience = patience
        self._due_at = time.monotonic() + EVERY_S

    def reached(self, position: int) -> None:
        """Notes that the file's first `position` bytes are here."""
        self._patience.reached(position)
        if (now := time.monotonic()) >= self._due_at:
            self._due_at = now + EVERY_S
            _log.info("download_progress", what=self._what, received=size(position), of=size(self._size_bytes))
