"""The people's door as an HTTP server on an address: uvicorn, behind an acceptor of our own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from coordinator.doors.limits import HEADER_S
from coordinator.doors.rest.acceptor import Acceptor
from coordinator.doors.rest.connection import Connection

if TYPE_CHECKING:
    from coordinator.doors.limits import DoorLimits
    from coordinator.doors.opening import Tls

_HEADERS = [("X-Content-Type-Options", "nosniff")]
_OVER_TLS = [("Strict-Transport-Security", "max-age=31536000")]


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on this address, which does not listen yet; port 0 takes any free port.

    Raises:
        OSError: the address is none of this machine, or is taken. `socket.gaierror` where it is no address.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What it accepts inherits this. Else an answer's body waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        yield listener


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of, and connections to `Acceptor`."""

    def __init__(self, config: uvicorn.Config, limits: DoorLimits) -> None:
        super().__init__(config)
        self._limits = limits
        self.listening = asyncio.Event()
        self.acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        (listener,) = sockets or []
        self.servers = []
        self.acceptor = Acceptor(listener, self._connection, self._limits, self.config.ssl)
        self.acceptor.open()
        self.started = True
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.acceptor is not None:
            self.acceptor.close()
            await super().shutdown(sockets)
            await self.acceptor.cut()
            while self.server_state.tasks:  # answers that were cut short still write their audit
                await asyncio.wait(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


@contextlib.asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, tls: Tls | None, limits: DoorLimits, grace_s: int
) -> AsyncIterator[None]:
    """Answers on the listener as long as the block; answers under way have `grace_s` seconds to end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        headers=[*_HEADERS, *(_OVER_TLS if tls else [])],
        timeout_keep_alive=int(HEADER_S),
        timeout_graceful_shutdown=grace_s,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ciphers="ECDHE+AESGCM:ECDHE+CHACHA20",  # of TLS 1.2; those of 1.3 are all good
    )
    server = _Server(config, limits)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="rest")
    try:
        listening = asyncio.ensure_future(server.listening.wait())
        await asyncio.wait([listening, task], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        yield
    finally:
        server.should_exit = True
        await task
