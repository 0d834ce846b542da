"""Keeps one kind of line from filling a disk: what somebody outside can cause a thousand times a second is told a
hundred times a minute, and how often it was left out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

MOST = 100  # lines of a kind
WINDOW_S = 60.0


@dataclass
class _Kind:
    began: float
    lines: int = 0


class Brake(logging.Filter):
    """Of warnings and errors. A kind is an event of this software, or the logger of a library."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        event = record.msg.get("event") if isinstance(record.msg, dict) else None
        name = str(event or record.name)
        kind = self._kinds.get(name)
        if kind is None or record.created - kind.began >= WINDOW_S:
            left_out = max(0, kind.lines - MOST) if kind else 0
            kind = self._kinds[name] = _Kind(record.created)
            if left_out and event:
                record.msg["left_out"] = left_out  # type: ignore[index]
        kind.lines += 1
        return kind.lines <= MOST
