"""Accepts the connections of the REST door: no more than there is room for, and not all of them from one address.

A full door closes the connection that has waited longest without a request, so that idle ones keep nobody out.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import structlog

from coordinator.doors.limits import HANDSHAKE_S, DoorLimits, holder_of
from coordinator.doors.rest.connection import Connection

BACKLOG = 1024
AT_ONCE = 64  # connections accepted before others of the event loop have their turn
RETRY_S = 1.0
SAID_EVERY_S = 60.0
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Guest:
    """A connection from its first byte on; `protocol` speaks once the handshake is over."""

    holder: str
    socket: socket.socket | None  # until a transport owns it
    protocol: Connection
    task: asyncio.Task[None] | None = None


class Acceptor:
    """Belongs to one event loop. `make`: a new connection's protocol."""

    def __init__(
        self, listener: socket.socket, make: Callable[[], Connection], limits: DoorLimits, tls: ssl.SSLContext | None
    ) -> None:
        self._listener, self._make, self._limits, self._tls = listener, make, limits, tls
        self._guests: dict[_Guest, None] = {}  # in the order of their coming
        self._held: Counter[str] = Counter()
        self._said_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._listen()

    def close(self) -> None:
        """Takes no more connections; those that are there go on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)

    async def cut(self) -> None:
        """Ends what is left of the connections."""
        tasks = [guest.task for guest in self._guests if guest.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    raise
                self._wait_for_descriptors(error)
                return
            connection.setblocking(False)
            self._admit(connection, holder_of(address[0]) if address else "unix")

    def _wait_for_descriptors(self, error: OSError) -> None:
        if time.monotonic() - self._said_at >= SAID_EVERY_S:
            self._said_at = time.monotonic()
            _log.error("descriptors_out", reason=f"no new connection can be taken ({error}); raise the limit of files")
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(RETRY_S, self._listen)

    def _admit(self, connection: socket.socket, holder: str) -> None:
        if self._held[holder] >= self._limits.max_connections_per_address:
            room = self._send_away([guest for guest in self._guests if guest.holder == holder])
        else:
            room = len(self._guests) < self._limits.max_connections or self._send_away(self._guests)
        if not room:
            connection.close()
            return
        guest = _Guest(holder, connection, self._make())
        self._guests[guest] = None
        self._held[holder] += 1
        guest.task = self._loop.create_task(self._serve(guest, connection))
        guest.task.add_done_callback(lambda _: self._forget(guest))

    def _send_away(self, guests: Collection[_Guest]) -> bool:
        """Whether one was found that can go: the oldest that waits, else the oldest whose reader stands still."""
        for can_go in (lambda guest: guest.protocol.is_waiting, lambda guest: guest.protocol.is_stalled):
            for guest in filter(can_go, guests):
                if guest.task is not None:
                    guest.task.cancel()
                self._forget(guest)
                return True
        return False

    def _forget(self, guest: _Guest) -> None:
        if guest.socket is not None:  # sent away before it was served
            guest.socket.close()
            guest.socket = None
        if guest in self._guests:
            del self._guests[guest]
            self._held[guest.holder] -= 1
            if not self._held[guest.holder]:
                del self._held[guest.holder]

    async def _serve(self, guest: _Guest, connection: socket.socket) -> None:
        timeout_s = HANDSHAKE_S if self._tls else None
        guest.socket = None
        try:
            with suppress(OSError):  # a handshake that fails, or takes too long
                await self._loop.connect_accepted_socket(
                    lambda: guest.protocol, connection, ssl=self._tls, ssl_handshake_timeout=timeout_s
                )
                await guest.protocol.ended
        finally:
            guest.protocol.cut()
