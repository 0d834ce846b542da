"""A job's server-sent events, as the WHATWG's HTML standard has them (9.2): lines in, events out, and how to go on.

Nothing here reads from a line: the sync and the async client feed `Stream` the lines that they read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fedgalore.client.errors import Unreachable
from fedgalore.client.waiting import Patience

SILENCE_S = 60.0  # between two lines; the coordinator says every 15 s that it is still there
RETRY_S = 2.0
END = "end"


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job. `id`: its place in the job's stream; `data`: by type, see docs/CLIENT.md."""

    id: str
    type: str
    data: dict[str, Any]


class Stream:
    """One job's events over as many connections as it takes.

    `ended`: the job is final, and nothing follows. `retry_s`: how long to wait before the next connection.
    """

    def __init__(self, after: str | None = None) -> None:
        self.ended = False
        self.retry_s = RETRY_S
        self._last = after
        self._patience = Patience()
        self._fresh()

    def headers(self) -> dict[str, str]:
        """Of the next connection: it goes on behind the last event that came whole."""
        return {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last} if self._last is not None else {})

    def opened(self) -> None:
        """A connection is there."""
        self._patience.heard()
        self._fresh()

    def lost(self, error: Unreachable) -> None:
        """
        Raises:
            Unreachable: the error, when nobody has answered for too long.
        """
        self._patience.lost(error)

    def line(self, line: str) -> Event | None:
        """The event that a line completes."""
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                self._data.append(value)
            elif field == "event":
                self._type = value
            elif field == "id":
                self._id = value
            elif field == "retry" and value.isdecimal():
                self.retry_s = int(value) / 1000
            return None
        type_, data, id_ = self._type, "\n".join(self._data), self._id
        self._fresh()
        if type_ == END:
            self.ended = True
            return None
        if not data:
            return None  # a comment, or `retry` alone
        self._last = id_ or self._last
        return Event(id_, type_ or "message", json.loads(data))

    def _fresh(self) -> None:
        """Nothing of an event has come yet."""
        self._type, self._id = "", ""
        self._data: list[str] = []
