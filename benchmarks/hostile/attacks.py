"""The attacks, each a coroutine that begins and then holds on: `python -m benchmarks.hostile.attacks NAME TARGET`.

They run in a process of their own, so that what they take does not count for the coordinator.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from fedgalore.version import PROTOCOL_VERSION
from protos import federation_pb2 as pb
from protos.federation_pb2_grpc import FederationStub

HELD_S = 3600.0
METHODS = "/fedgalore.v1.Federation/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM"


@dataclass(frozen=True)
class Target:
    """The doors' ports, a job with a round that is open to c0, a blob of its task, and the bytes of an update."""

    rest: int
    grpc: int
    job: str
    blob: str
    update: str

    @property
    def content(self) -> bytes:
        with open(self.update, "rb") as file:  # noqa: PTH123
            return file.read()


async def idle(port: int, count: int, first: bytes = b"", then: bytes = b"", receive_bytes: int | None = None) -> None:
    """Connections that send these bytes, then one of the others each second; another for each that is closed."""

    async def connection() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                line = socket.socket()
                if receive_bytes:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
                line.setblocking(False)
                await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
                if receive_bytes:
                    await asyncio.get_running_loop().sock_sendall(line, first)
                    await asyncio.sleep(HELD_S)
                reader, writer = await asyncio.open_connection(sock=line)
                writer.write(first)
                while not reader.at_eof():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1000), 1.0)
                    writer.write(then)
                writer.close()
            await asyncio.sleep(0.2)

    await asyncio.gather(*(connection() for _ in range(count)))


async def calls(target: Target, count: int, begin: Callable[[grpc.aio.Channel, int], Awaitable[None]]) -> None:
    """So many calls at once, begun again when they end; a hundred over each connection."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{target.grpc}", options=options) for _ in range(-(-count // 100))]

    async def call(number: int) -> None:
        while True:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await begin(channels[number % len(channels)], number)
            await asyncio.sleep(0.2)

    await asyncio.gather(*(call(number) for number in range(count)))


async def half_call(channel: grpc.aio.Channel, number: int) -> None:
    """A registration whose message never comes."""
    begin: Any = channel.stream_unary
    await begin(METHODS + "Register")()


async def headless(channel: grpc.aio.Channel, number: int) -> None:
    """An update without a header."""
    await FederationStub(channel).SubmitUpdate().read()  # type: ignore[no-untyped-call]


def upload(target: Target, distinct: bool) -> Callable[[grpc.aio.Channel, int], Awaitable[None]]:
    """Updates of c0 that stand still before their end; `distinct`: each of other content."""
    content = target.content

    async def begin(channel: grpc.aio.Channel, number: int) -> None:
        sha256 = hashlib.sha256(b"%d" % (number if distinct else 0)).hexdigest()
        blob = pb.BlobRef(sha256=sha256, size_bytes=len(content))
        header = pb.UpdateHeader(client="c0", job_id=target.job, round=1, blob=blob)
        call = FederationStub(channel).SubmitUpdate()  # type: ignore[no-untyped-call]
        await call.write(pb.SubmitUpdateRequest(header=header))
        for start in range(0, len(content) * 9 // 10, 2**20):
            await call.write(pb.SubmitUpdateRequest(chunk=content[start : start + 2**20]))
        while await call.read():
            pass

    return begin


def giant(target: Target) -> Callable[[grpc.aio.Channel, int], Awaitable[None]]:
    """Messages of 4 MB, as large as any may be, in one call after the other."""

    async def begin(channel: grpc.aio.Channel, number: int) -> None:
        call = FederationStub(channel).SubmitUpdate()  # type: ignore[no-untyped-call]
        blob = pb.BlobRef(sha256="0" * 64, size_bytes=len(target.content))
        header = pb.UpdateHeader(client="c0", job_id=target.job, round=1, blob=blob)
        await call.write(pb.SubmitUpdateRequest(header=header))
        for _ in range(8):
            await call.write(pb.SubmitUpdateRequest(chunk=bytes(4 * 2**20 - 100)))
        await call.read()

    return begin


def download(target: Target) -> Callable[[grpc.aio.Channel, int], Awaitable[None]]:
    """Downloads of c0 of which nothing is read after the first message."""

    async def begin(channel: grpc.aio.Channel, number: int) -> None:
        wanted = pb.DownloadBlobRequest(client="c0", sha256=target.blob, job_id=target.job, round=1)
        call = FederationStub(channel).DownloadBlob(wanted)  # type: ignore[no-untyped-call]
        await call.read()
        await asyncio.sleep(HELD_S)

    return begin


async def register(channel: grpc.aio.Channel, number: int) -> None:
    """A client of another name each time."""
    _names.setdefault(number, iter(range(10**9)))
    name = f"x{number}-{next(_names[number])}"
    request = pb.RegisterRequest(client=name, protocol_version=PROTOCOL_VERSION, software_version="1")
    await FederationStub(channel).Register(request)  # type: ignore[no-untyped-call]


_names: dict[int, Iterator[int]] = {}


async def poll(channel: grpc.aio.Channel, number: int) -> None:
    """Polls of c0 without a pause."""
    stub = FederationStub(channel)  # type: ignore[no-untyped-call]
    while True:
        await stub.NextTask(pb.NextTaskRequest(client="c0", wait_s=0))


async def long_poll(channel: grpc.aio.Channel, number: int) -> None:
    """Polls of a client without a task."""
    await FederationStub(channel).NextTask(pb.NextTaskRequest(client="hoarder", wait_s=60))  # type: ignore[no-untyped-call]


async def requests(port: int, count: int) -> None:
    """Requests to the people's door without a pause."""
    import httpx

    async def one() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            while True:
                with suppress(httpx.HTTPError):
                    await http.get("/api/v1/jobs")

    await asyncio.gather(*(one() for _ in range(count)))


def _post(length: int) -> bytes:
    head = (
        f"POST /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}"
    )
    return f"{head}\r\n\r\n{{".encode()


ATTACKS: dict[str, Callable[[Target], Any]] = {
    "REST: 3000 idle connections": lambda t: idle(t.rest, 3000),
    "REST: 3000 half headers, a byte a second": lambda t: idle(t.rest, 3000, b"GET / HTTP/1.1\r\nA: ", b"a"),
    "REST: 1000 slow bodies, a byte a second": lambda t: idle(t.rest, 1000, _post(10**5), b" "),
    "REST: 500 downloads that are not read": lambda t: idle(
        t.rest,
        500,
        f"GET /api/v1/jobs/{t.job}/model?version=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
        receive_bytes=2**12,
    ),
    "REST: requests without a pause, 64 at a time": lambda t: requests(t.rest, 64),
    "gRPC: 3000 idle connections": lambda t: idle(t.grpc, 3000),
    "gRPC: 3000 half handshakes": lambda t: idle(t.grpc, 3000, PREFACE),
    "gRPC: 3000 calls whose message never comes": lambda t: calls(t, 3000, half_call),
    "gRPC: 3000 updates without a header": lambda t: calls(t, 3000, headless),
    "gRPC: 500 updates that stall, each of other content": lambda t: calls(t, 500, upload(t, True)),
    "gRPC: 200 calls with messages of 4 MB": lambda t: calls(t, 200, giant(t)),
    "gRPC: 500 downloads that are not read": lambda t: calls(t, 500, download(t)),
    "gRPC: 3000 long polls of a client": lambda t: calls(t, 3000, long_poll),
    "gRPC: polls without a pause, 64 at a time": lambda t: calls(t, 64, poll),
    "gRPC: registrations without a pause, 64 at a time": lambda t: calls(t, 64, register),
}


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(ATTACKS[sys.argv[1]](Target(**json.loads(sys.argv[2]))))
