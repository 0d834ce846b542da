"""What many idle agents cost a coordinator: `python -m benchmarks.light_agents [--agents 300 1000]`.

A real coordinator with Redis, and agents as coroutines of this process, each with a connection of its own. They
register all at once; then all but one wait in long polls, and the one asks again and again for a task that is not
there. Told are registrations a second, the latency of that empty poll, and the coordinator's memory before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import grpc
import psutil  # type: ignore[import-untyped]

from benchmarks.light_clients import coordinator
from fedgalore.version import PROTOCOL_VERSION
from protos import federation_pb2 as pb
from protos.federation_pb2_grpc import FederationStub

POLLS = 200
WAIT_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[300, 1000])
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| agents | registrations a second | empty poll: middle, 95 % | memory: before, with them |")
    print("|---|---|---|---|")
    for count in options.agents:
        with tempfile.TemporaryDirectory() as name, coordinator(Path(name)) as (federation, address):
            assert federation.coordinator.popen is not None
            process = psutil.Process(federation.coordinator.popen.pid)
            print(asyncio.run(measured(address, count, process)), flush=True)


async def measured(address: str, count: int, process: psutil.Process) -> str:
    """A row of the table."""
    before = process.memory_info().rss
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(count)]
    stubs = [FederationStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    started = time.perf_counter()
    await asyncio.gather(*(registered(stub, f"a{number}") for number, stub in enumerate(stubs)))
    registrations = count / (time.perf_counter() - started)
    waiting = [asyncio.create_task(wait(stub, f"a{number}")) for number, stub in enumerate(stubs[1:], 1)]
    await asyncio.sleep(2)
    took = []
    for _ in range(POLLS):
        begun = time.perf_counter()
        await stubs[0].NextTask(pb.NextTaskRequest(client="a0", wait_s=0))
        took.append(time.perf_counter() - begun)
    after = process.memory_info().rss
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.gather(*(channel.close(None) for channel in channels))
    cuts = quantiles(took, n=20)
    return (
        f"| {count} | {registrations:.0f} | {1000 * cuts[9]:.1f}, {1000 * cuts[18]:.1f} ms "
        f"| {before / 1e6:.0f}, {after / 1e6:.0f} MB |"
    )


async def registered(stub: FederationStub, name: str) -> None:
    request = pb.RegisterRequest(client=name, protocol_version=PROTOCOL_VERSION, software_version="1")
    await stub.Register(request)


async def wait(stub: FederationStub, name: str) -> None:
    while True:
        await stub.NextTask(pb.NextTaskRequest(client=name, wait_s=WAIT_S))


if __name__ == "__main__":
    main()
