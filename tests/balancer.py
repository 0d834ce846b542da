"""One address in front of several servers, without sticky sessions: each connection leads to the next server, and is
cut after a while, so that whoever goes on does so at another one."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType


class Balancer:
    """A context manager; its loop runs in a thread.

    Args:
        ports: of the servers, on this machine. One that takes no connection is passed over.
        most_bytes: of a connection, from the caller to the server; then it is cut.
        most_s: seconds that a connection lives.
    """

    def __init__(self, ports: Sequence[int], most_bytes: int, most_s: float) -> None:
        self.ports = list(ports)
        self.port = 0
        self.led_to: Counter[int] = Counter()  # connections by port
        self._most_bytes, self._most_s = most_bytes, most_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")

    def __enter__(self) -> Balancer:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were closed say so

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in self.ports:
                port = self.ports[0]
                self.ports.append(self.ports.pop(0))
                with suppress(OSError):
                    to_server = await asyncio.open_connection("127.0.0.1", port)
                    break
            else:
                return
            self.led_to[port] += 1
            with suppress(TimeoutError, asyncio.CancelledError):  # the latter: the balancer ends
                async with asyncio.timeout(self._most_s):
                    ends = [
                        asyncio.ensure_future(_pump(reader, to_server[1], self._most_bytes)),
                        asyncio.ensure_future(_pump(to_server[0], writer, None)),
                    ]
                    try:
                        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for end in ends:
                            end.cancel()
                        to_server[1].transport.abort()
        finally:
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most_bytes: int | None) -> None:
    passed = 0
    with suppress(OSError):
        while data := await reader.read(8192):
            writer.write(data)
            await writer.drain()
            passed += len(data)
            if most_bytes is not None and passed > most_bytes:
                return
