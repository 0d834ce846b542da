"""Seconds a round with clients that train nothing: `python -m benchmarks.light_round [--clients 2 32 256]`.

A real coordinator with its aggregator and Redis, and clients as coroutines of this process over real sockets: each
takes its task, fetches the cut of the round before, and sends an update of about 1 KB, which is checked, hashed and
synced to disk. What is measured is the time from commit to commit. The floor is the same number of calls without any
work: each client asks the standard health service as often as it calls in a round, which gRPC's Python alone takes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.light_clients import coordinator, document, make_model, post, registered, rounds_of, wait_for_version
from fedgalore_cli.local import LocalFederation

CALLS = 4  # of a client in a round: its task, the cut, how much of the update is here, the update
BARS = {2: 0.06, 32: 0.5, 256: 3.0}  # seconds
METHOD = {"kind": "fedit", "rank": 1, "target_modules": ["query"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=list(BARS))
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    print("clients   a round    slowest   calls alone   ratio   update   bar")
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name) / "federation") as (federation, address):
        model = make_model(Path(name) / "model", 8, 1)
        for count in options.clients:
            job = post(federation, document(model, count, options.rounds, METHOD))
            took, size = asyncio.run(play(federation, address, job, count, options.rounds, Path(name) / str(count)))
            floor = asyncio.run(calls_alone(address, count))
            middle, bar = statistics.median(took), BARS.get(count)
            print(
                f"{count:7} {middle:8.3f} s {max(took):8.3f} s {floor:11.3f} s {middle / floor:7.1f}"
                f"  {size:5} B   {f'{bar} s: ' + ('met' if middle <= bar else 'missed') if bar else ''}",
                flush=True,
            )


async def play(
    federation: LocalFederation, address: str, job: str, count: int, rounds: int, folder: Path
) -> tuple[list[float], int]:
    """Seconds from commit to commit, and an update's bytes."""
    clients = await registered(count, address, folder)
    try:
        await asyncio.gather(*(client.play(rounds) for client in clients))
        await asyncio.to_thread(wait_for_version, federation, job, rounds)
        size = (folder / "c0" / "update").stat().st_size
        tasks = await asyncio.gather(*(client.next_task() for client in clients))  # the final evaluation
        await asyncio.gather(*(client.evaluate(task) for client, task in zip(clients, tasks, strict=True)))
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    trained = (each for each in rounds_of(federation, job) if each["kind"] == "train")
    ends = sorted(datetime.fromisoformat(each["phase_at"]["COMMITTED"]) for each in trained)
    return [(after - before).total_seconds() for before, after in pairwise(ends)], size


async def calls_alone(address: str, count: int) -> float:
    """Seconds of a round's calls from so many clients, each with a connection of its own, without any work."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)
    ]
    stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
    request = health_pb2.HealthCheckRequest()

    async def client(stub: health_pb2_grpc.HealthStub) -> None:
        for _ in range(CALLS):
            await stub.Check(request)

    await asyncio.gather(*(stub.Check(request) for stub in stubs))  # connects
    started = time.perf_counter()
    await asyncio.gather(*(client(stub) for stub in stubs))
    took = time.perf_counter() - started
    await asyncio.gather(*(channel.close(None) for channel in channels))
    return took


if __name__ == "__main__":
    main()
