"""A connection of the REST door: uvicorn's, with deadlines for the header and for a reader that stands still."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.doors.limits import HEADER_S, STALL_S

MOST_UNSENT = 2**16  # bytes; over TLS asyncio would let half a mebibyte lie here, and wait until most of it has gone
LOOK_S = 0.5
CUT = "cut"  # in a scope's state: ends the connection at once


class Connection(H11Protocol):
    """`ended` is done when the connection is."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ended = self.loop.create_future()
        self.app_state = {**self.app_state, CUT: self.cut}
        self._header_due: asyncio.TimerHandle | None = None
        self._drain_due: asyncio.TimerHandle | None = None
        self._left = 0  # bytes unsent when the time for that began

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered, and the answer before has been sent."""
        return not self._is_answering and not self._unsent

    @property
    def is_stalled(self) -> bool:
        """Whether its reader does not take what lies here for it."""
        return self._drain_due is not None

    def cut(self) -> None:
        """Ends the connection; what it has not sent yet is dropped, since a reader that stands still never takes it."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MOST_UNSENT)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._header_came()

    def on_response_complete(self) -> None:
        self._await_header()  # first: the next request may lie here already
        super().on_response_complete()
        self._header_came()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_drain()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_drain()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_drain()
        self._forget_header()
        if not self.ended.done():
            self.ended.set_result(None)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer is under way: there is no room for another
            self.cut()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _unsent(self) -> int:
        """Bytes that the kernel has not taken yet. TLS has a transport below, with a buffer of its own."""
        below = getattr(getattr(self.transport, "_ssl_protocol", None), "_transport", None)
        return sum(each.get_write_buffer_size() for each in (self.transport, below) if each is not None)

    def _await_header(self) -> None:
        """The header's time begins when the answer before has been sent."""
        self._forget_header()
        if self._unsent:
            if self._drain_due is None:
                self._await_drain()
            self._header_due = self.loop.call_later(LOOK_S, self._await_header)
        else:
            self._forget_drain()
            self._header_due = self.loop.call_later(HEADER_S, self.cut)

    def _header_came(self) -> None:
        if self._is_answering:
            self._forget_header()
            if not self.flow.write_paused:
                self._forget_drain()

    def _forget_header(self) -> None:
        if self._header_due is not None:
            self._header_due.cancel()
            self._header_due = None

    def _await_drain(self) -> None:
        self._forget_drain()
        self._left = self._unsent
        self._drain_due = self.loop.call_later(STALL_S, self._look_at_drain)

    def _look_at_drain(self) -> None:
        """Cuts who has taken nothing; who is slow goes on."""
        if self._unsent < self._left:
            self._await_drain()
        else:
            self.cut()

    def _forget_drain(self) -> None:
        if self._drain_due is not None:
            self._drain_due.cancel()
            self._drain_due = None
