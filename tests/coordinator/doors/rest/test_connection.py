"""The people's door from its sockets: deadlines, room, what an answer says beside its content."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.doors import watched
from coordinator.doors.limits import DoorLimits
from coordinator.doors.rest import acceptor, connection, problems, server
from coordinator.doors.rest.acceptor import Acceptor
from coordinator.doors.rest.downloads import Download, chunks_of
from coordinator.doors.rest.ranges import Part
from coordinator.doors.rest.server import bound, serving
from coordinator.models.archive import Archive
from coordinator.state.errors import JobNotFound
from tests.coordinator.doors.rest.stack import Stack

LARGE = 2**24
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answers; under /endless for as long as it is read."""
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
        await send({"type": "http.response.body", "body": bytes(LARGE)})
        return
    length = [(b"content-length", b"2")] if scope["path"] == "/" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    if scope["path"] == "/endless":
        await receive()
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"hi"})


@contextlib.asynccontextmanager
async def door(app: Any = hello, **limits: int) -> AsyncIterator[int]:
    with bound("127.0.0.1", 0) as listener:
        async with serving(app, listener, None, DoorLimits(**limits), 0):
            yield listener.getsockname()[1]


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def lines() -> AsyncIterator[list[Line]]:
    """Filled by `say`; they are closed at the end."""
    opened: list[Line] = []
    yield opened
    for _, writer in opened:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def say(port: int, lines: list[Line], data: bytes = b"") -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**10)
    lines.append((reader, writer))
    writer.write(data)
    return reader


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the line is closed, or breaks."""
    got = b""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                got += data
    return got


@pytest.mark.parametrize("begun", [b"", b"GET / HT", GET + b"A: "])
async def test_a_header_that_does_not_come_whole_ends_the_connection(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEADER_S", 0.05)
    async with door() as port:
        assert await everything(await say(port, lines, begun)) == b""


async def test_a_body_trickling_behind_its_answer_ends_the_connection(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_S", 0.5)
    async with door() as port:
        reader = await say(port, lines, GET + b"Content-Length: 100\r\n\r\n")
        trickling = asyncio.create_task(trickle(lines[0][1]))
        assert (await everything(reader)).endswith(b"\r\n\r\nhi")
        trickling.cancel()


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.005)


async def test_who_does_not_read_is_cut(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.02)
    ended = asyncio.Event()

    async def told(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)
        ended.set()

    async with door(told) as port, asyncio.timeout(60):
        reader = await say(port, lines, GET.replace(b"/ ", b"/endless ") + b"\r\n")
        lines[0][1].transport.pause_reading()  # type: ignore[attr-defined]
        await ended.wait()
        lines[0][1].transport.resume_reading()  # type: ignore[attr-defined]
        assert not (await everything(reader)).endswith(b"hi")


async def test_a_slow_reader_gets_the_whole_answer(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for the next header begins when the answer has left."""
    monkeypatch.setattr(connection, "LOOK_S", 0.01)
    got = 0
    async with door() as port, asyncio.timeout(60):
        reader = await say(port, lines, GET.replace(b"/ ", b"/large ") + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        monkeypatch.setattr(connection, "HEADER_S", 0.02)  # now: a busy machine may take longer for the first one
        for pause_s in (*(0.03,) * 5, *(0.0,) * LARGE):
            await asyncio.sleep(pause_s)
            if not (data := await reader.read(2**20)):
                break
            got += len(data)
    assert got == LARGE


async def test_a_door_that_closes_waits_for_what_a_cut_answer_still_writes(lines: list[Line]) -> None:
    written = []

    async def audited(scope: Any, receive: Any, send: Any) -> None:
        try:
            await hello(scope, receive, send)
        finally:
            await asyncio.sleep(0.05)
            written.append(scope["path"])

    async with door(audited) as port:
        await (await say(port, lines, GET.replace(b"/ ", b"/endless ") + b"\r\n")).readuntil(b"\r\n\r\n")
    assert written == ["/endless"]


def test_over_tls_both_buffers_are_counted_and_the_upper_one_is_small() -> None:
    class Transport:
        def __init__(self, size: int, below: Transport | None = None) -> None:
            self.size, self._ssl_protocol = size, SimpleNamespace(_transport=below)

        def get_write_buffer_size(self) -> int:
            return self.size

    line = connection.Connection.__new__(connection.Connection)
    for upper, below, waits in ((0, 0, True), (1, 0, False), (0, 1, False)):
        vars(line).update(cycle=None, transport=Transport(upper, Transport(below)))
        assert line.is_waiting is waits


async def test_requests_of_a_connection_follow_each_other(lines: list[Line]) -> None:
    async with door() as port:
        reader = await say(port, lines, (GET + b"\r\n") * 3 + b"nonsense\r\n\r\n")
        got = await everything(reader)
    assert (got.count(b"200 OK"), got.count(b"x-content-type-options: nosniff"), got.count(b"400 Bad")) == (3, 3, 1)


async def test_a_full_door_sends_the_oldest_idle_connection_away(lines: list[Line]) -> None:
    async with door(max_connections=3) as port:
        readers = [await say(port, lines, GET + b"\r\n") for _ in range(3)]
        for reader in readers:
            await reader.readuntil(b"hi")
        late = await say(port, lines, GET + b"\r\n")
        await late.readuntil(b"hi")
        assert await everything(readers[0]) == b""
        for _, writer in lines[1:]:
            writer.write(GET + b"\r\n")
        for reader in (*readers[1:], late):
            await reader.readuntil(b"hi")


async def test_a_door_that_is_busy_with_one_address_takes_no_more_of_it(lines: list[Line]) -> None:
    async with door(max_connections_per_address=2) as port:
        for _ in range(2):
            busy = await say(port, lines, GET.replace(b"/ ", b"/endless ") + b"\r\n")
            await busy.readuntil(b"\r\n\r\n")
        assert await everything(await say(port, lines, GET + b"\r\n")) == b""
        lines[0][1].close()
        for _ in range(100):
            if await everything(await say(port, lines, GET + b"Connection: close\r\n\r\n")):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("a connection that ended left no room")
        lines[1][1].transport.abort()


async def test_out_of_descriptors_it_says_so_once_and_goes_on(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(Acceptor):
        """Its first accepts fail as they do without descriptors."""

        def _accept(self) -> None:
            if next(failing, None) is not None:
                self._wait_for_descriptors(OSError(errno.EMFILE, "Too many open files"))
            else:
                super()._accept()

    failing = iter(range(3))
    monkeypatch.setattr(acceptor, "RETRY_S", 0.01)
    monkeypatch.setattr(server, "Acceptor", Short)
    with capture_logs() as logged:
        async with door() as port:
            await (await say(port, lines, GET + b"\r\n")).readuntil(b"hi")
    assert [row["event"] for row in logged] == ["descriptors_out"]


class Endless(Archive):
    """Of more bytes than anybody reads."""

    size_bytes = 2**50

    def __init__(self) -> None:
        self.file_name, self.is_closed = "endless.tar", asyncio.Event()

    def read(self, skip: int = 0) -> Iterator[bytes]:
        while True:
            yield bytes(2**20)

    def close(self) -> None:
        self.is_closed.set()


async def test_a_download_that_stands_still_ends_with_its_job(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_deleted, archive = asyncio.Event(), Endless()

    async def check() -> None:
        if is_deleted.is_set():
            raise JobNotFound("it is gone")

    monkeypatch.setattr(watched, "RECHECK_S", 0.01)
    async with door(Download(archive, chunks_of(archive), check, Part(200, 0, archive.size_bytes), {})) as port:
        reader = await say(port, lines, GET + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        assert not archive.is_closed.is_set()
        is_deleted.set()
        await asyncio.wait_for(archive.is_closed.wait(), 10)


# --- the whole door -------------------------------------------------------------------------------------------------


async def raw(stack: Stack, lines: list[Line], data: bytes) -> bytes:
    return await everything(await say(stack.http.base_url.port or 0, lines, data))


async def test_answers_are_kept_by_nobody_and_taken_for_nothing_else(stack: Stack) -> None:
    for path in ("/api/v1/jobs", "/version", "/nowhere"):
        headers = (await stack.http.get(path)).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff"), path
        assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    "lengths",
    [b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 2\r\nContent-Length: 3\r\n"],
)
async def test_a_body_of_two_lengths_is_refused(stack: Stack, lines: list[Line], lengths: bytes) -> None:
    head = b"POST /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    got = await raw(stack, lines, head + lengths + b"\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1") == 1  # what may be another request is none


async def test_a_body_that_does_not_come_is_not_waited_for(
    stack: Stack, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "BODY_S", 0.05)
    head = b"POST /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    got = await raw(stack, lines, head + b"Content-Length: 20\r\n\r\n{")
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"body: did not come whole" in got
