"""Bytes a second of an upload beside a bare gRPC stream: `python -m benchmarks.upload [--clients 1 8]`.

Ours: the agents' own transport sends a round's updates to a coordinator in a process of its own, which checks header
and values, hashes each chunk, writes it and syncs the file to disk before it answers. The updates of several clients
come at once. Bare: as many streams of the same messages to a server in a process of its own, which drops them. Both
sides of both are Python's gRPC, and every stream comes from one client process.

The second line of a case has the parts, in processor seconds of one update: the bare stream, client and server
together, its SHA-256, and its write with the sync; and the most that the ratio can be on the cores of this machine, as
the quickest round is no shorter than the bare one, nor than all these parts shared out evenly.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from benchmarks.light_clients import LightClient, coordinator, document, make_model, post, registered
from fedgalore_cli.local import LocalFederation
from protos import CHUNK_BYTES, MAX_REQUEST_BYTES
from protos import federation_pb2 as pb

BAR = 0.6
ROUNDS = 5  # of which the quickest counts: other work on the machine disturbs both sides
METHOD = {"kind": "fedavg"}
WIRE = {"bits": 32}
PATH = "/bare/Stream"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    print("clients   bytes each       ours   bare gRPC   ratio   bar")
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name) / "federation") as (federation, address):
        model = make_model(Path(name) / "model", options.hidden, options.layers)
        for count in options.clients:
            size, ours, bare, parts = asyncio.run(measured(federation, address, model, count, Path(name) / str(count)))
            ratio = bare / ours
            print(
                f"{count:7} {size:12,} {rate(count * size, ours)} {rate(count * size, bare)} {ratio:7.2f}"
                f"   {BAR}: {'met' if ratio >= BAR else 'missed'}",
                flush=True,
            )
            cores = os.cpu_count() or 1
            most = bare / max(bare, count * sum(parts) / cores)
            print(
                f"        of it bare {parts.bare_s:.3f} s, SHA-256 {parts.hash_s:.3f} s, write {parts.write_s:.3f} s; "
                f"on {cores} cores at most {most:.2f}",
                flush=True,
            )


class Parts(NamedTuple):
    """Processor seconds of one update."""

    bare_s: float
    hash_s: float
    write_s: float


def rate(size: int, took_s: float) -> str:
    return f"{size / took_s / 1e6:6.0f} MB/s"


async def measured(
    federation: LocalFederation, address: str, model: Path, count: int, folder: Path
) -> tuple[int, float, float, Parts]:
    """Bytes of an update; seconds of all clients' updates in the quickest round, ours and bare; what takes them."""
    job = post(federation, document(model, count, ROUNDS, METHOD, wire=WIRE))
    clients = await registered(count, address, folder)
    ours, bare, streams, alone = [], [], [], []
    with bare_server() as (port, spent_s):
        for _ in range(ROUNDS):
            tasks = await asyncio.gather(*(client.next_task() for client in clients))
            updates = [client.write(task) for client, task in zip(clients, tasks, strict=True)]
            before = time.process_time() + spent_s()
            bare.append(await bare_uploads(port, [path for path, _ in updates]))
            streams.append((time.process_time() + spent_s() - before) / count)
            alone.append(hashed_and_written(updates[0][0], folder / "copy"))
            started = time.perf_counter()
            turns = zip(clients, tasks, updates, strict=True)
            await asyncio.gather(*(client.submit(task, update) for client, task, update in turns))
            ours.append(time.perf_counter() - started)
    await end(federation, job, clients)
    return updates[0][1].size_bytes, min(ours), min(bare), Parts(min(streams), *map(min, zip(*alone, strict=True)))


def hashed_and_written(file: Path, copy: Path) -> tuple[float, float]:
    """Processor seconds to hash a file's bytes, and to write and sync them, a message at a time."""
    data = memoryview(file.read_bytes())
    pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    digest, started = hashlib.sha256(), time.process_time()
    for piece in pieces:
        digest.update(piece)
    hashed = time.process_time()
    with copy.open("wb", buffering=0) as target:
        for piece in pieces:
            target.write(piece)
        os.fsync(target.fileno())
    written = time.process_time()
    copy.unlink()
    return hashed - started, written - hashed


async def end(federation: LocalFederation, job: str, clients: list[LightClient]) -> None:
    with federation.http() as http:
        http.post(f"{job}/cancel").raise_for_status()
    await asyncio.gather(*(client.close() for client in clients))


async def bare_uploads(port: int, files: list[Path]) -> float:
    """Seconds until a server that does nothing has taken all of these files, each over a connection of its own."""
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) for _ in files
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    started = time.perf_counter()
    await asyncio.gather(*(_send(channel, path) for channel, path in zip(channels, files, strict=True)))
    took = time.perf_counter() - started
    await asyncio.gather(*(channel.close(None) for channel in channels))
    return took


async def _send(channel: grpc.aio.Channel, path: Path) -> None:
    stream = channel.stream_unary(
        PATH,
        request_serializer=pb.SubmitUpdateRequest.SerializeToString,
        response_deserializer=pb.SubmitUpdateResponse.FromString,
    )

    async def messages() -> AsyncIterator[pb.SubmitUpdateRequest]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield pb.SubmitUpdateRequest(chunk=chunk)

    answer = await stream(messages())
    assert answer.received_bytes == path.stat().st_size


@contextmanager
def bare_server() -> Iterator[tuple[int, Callable[[], float]]]:
    """The port of a server process that counts the bytes of streams, and what tells its processor seconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv(), lambda: processor_s(process.pid)
    finally:
        process.terminate()
        process.join()


def processor_s(process: int | None) -> float:
    """Processor seconds of a process that runs."""
    user, system = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _serve(pipe: Connection) -> None:
    asyncio.run(_serving(pipe))


async def _serving(pipe: Connection) -> None:
    async def stream(requests: AsyncIterator[Any], context: Any) -> pb.SubmitUpdateResponse:
        received = 0
        async for message in requests:
            received += len(message.chunk)
        return pb.SubmitUpdateResponse(received_bytes=received)

    handler = grpc.stream_unary_rpc_method_handler(
        stream,
        request_deserializer=pb.SubmitUpdateRequest.FromString,
        response_serializer=pb.SubmitUpdateResponse.SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES)])
    _, service, method = PATH.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    main()
