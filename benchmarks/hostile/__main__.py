"""What one hostile client costs a coordinator, call by call: `python -m benchmarks.hostile [--only WORDS]`.

A real coordinator with its Redis and a job whose round is open to two light clients; each attack runs in a process of
its own for some seconds. Meanwhile an honest agent polls over its connection, and a person asks over a new connection
each time. Told are, of the coordinator's process: the most resident memory and descriptors, bytes of its log, bytes of
deleted files that it holds open, and what lies in its folder of blobs; and how long the honest calls took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import grpc
import httpx
import psutil  # type: ignore[import-untyped]

from benchmarks.hostile.attacks import ATTACKS, Target
from benchmarks.light_clients import coordinator, document, make_model, post, registered
from fedgalore.version import PROTOCOL_VERSION
from fedgalore_cli.local import LocalFederation
from protos import federation_pb2 as pb
from protos.federation_pb2_grpc import FederationStub

SETTLED_S = 8.0  # after an attack, until what it left behind is looked at
PATIENCE_S = 10.0  # of the honest
METHOD = {"kind": "fedavg"}


@dataclass
class Cost:
    """The most, while an attack was under way; `hidden_after`: when it had been over for `SETTLED_S`."""

    memory_bytes: int = 0
    descriptors: int = 0
    log_bytes: int = 0
    hidden_bytes: int = 0
    hidden_after: int = 0
    disk_bytes: int = 0


class Honest:
    """Two who call twice a second, and how long it took."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.agent: list[float] = []
        self.person: list[float] = []

    async def call(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._target.grpc}") as channel:
            stub = FederationStub(channel)  # type: ignore[no-untyped-call]
            poll = pb.NextTaskRequest(client="idle", wait_s=0)
            await asyncio.gather(
                self._repeat(self.agent, lambda: stub.NextTask(poll, timeout=PATIENCE_S)),
                self._repeat(self.person, self._ask),
            )

    async def _ask(self) -> None:
        # From another address of this machine than the attack: where nobody shows a key, an address is a caller.
        way = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(transport=way, timeout=PATIENCE_S) as http:
            (await http.get(f"http://127.0.0.1:{self._target.rest}/api/v1/agents")).raise_for_status()

    async def _repeat(self, took: list[float], call: Callable[[], Awaitable[object]]) -> None:
        while True:
            started = time.perf_counter()
            try:
                await call()
                took.append(time.perf_counter() - started)
            except (grpc.RpcError, httpx.HTTPError):
                took.append(float("inf"))
            await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks with these words")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    print(
        "| attack | memory | descriptors | log | deleted files held, after | blobs | "
        "agent: middle, worst | person: middle, worst |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in ["nothing", *ATTACKS]:
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(suffer(name, Path(folder), options.seconds))


async def suffer(name: str, folder: Path, seconds: float) -> None:
    with coordinator(folder / "federation") as (federation, address):
        model = make_model(folder / "model", 256, 2)
        job = post(federation, document(model, 2, 3, METHOD))
        clients = await registered(2, address, folder)
        await register(address, "idle", "hoarder")
        (task, _) = await asyncio.gather(*(client.next_task() for client in clients))
        path, _ = clients[0].write(task)
        ports = json.loads((folder / "federation" / "ports.json").read_text())
        target = Target(**ports, job=job.rpartition("/")[2], blob=task.chain.checkpoint.sha256, update=str(path))
        honest = Honest(target)
        calling = asyncio.create_task(honest.call())
        await asyncio.sleep(2)
        honest.agent.clear()
        honest.person.clear()
        cost = await watched(federation, name, target, seconds)
        calling.cancel()
        print(_row(name, cost, honest), flush=True)
        await asyncio.gather(*(client.close() for client in clients))


async def register(address: str, *clients: str) -> None:
    """Makes clients known whose data no job asks for: the honest agent, and one that only waits."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = FederationStub(channel)  # type: ignore[no-untyped-call]
        for client in clients:
            known = pb.RegisterRequest(client=client, protocol_version=PROTOCOL_VERSION, software_version="1")
            await stub.Register(known)


async def watched(federation: LocalFederation, name: str, target: Target, seconds: float) -> Cost:
    cost = Cost()
    assert federation.coordinator.popen is not None
    process = psutil.Process(federation.coordinator.popen.pid)
    log, blobs = federation.coordinator.log, federation.root / "blobs"
    before = log.stat().st_size
    end = time.monotonic() + seconds
    with attacking(name, target):
        while time.monotonic() < end:
            cost.memory_bytes = max(cost.memory_bytes, process.memory_info().rss)
            cost.descriptors = max(cost.descriptors, process.num_fds())
            cost.hidden_bytes = max(cost.hidden_bytes, hidden(process.pid))
            cost.disk_bytes = max(cost.disk_bytes, size_of(blobs))
            await asyncio.sleep(0.5)
    cost.log_bytes = log.stat().st_size - before
    await asyncio.sleep(SETTLED_S)
    cost.hidden_after = hidden(process.pid)
    return cost


@contextmanager
def attacking(name: str, target: Target) -> Iterator[None]:
    """The attack, as long as the block; nothing where there is none of this name."""
    if name not in ATTACKS:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.hostile.attacks", name, json.dumps(asdict(target))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as attack:
        try:
            yield
        finally:
            attack.kill()


def hidden(pid: int) -> int:
    """Bytes of deleted files that a process holds open."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).endswith(" (deleted)"):
                status = link.stat()
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def _row(name: str, cost: Cost, honest: Honest) -> str:
    def mb(size: int) -> str:
        return f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB" if size else "0"

    def took(times: list[float]) -> str:
        failed = sum(time == float("inf") for time in times)
        good = [time for time in times if time < float("inf")]
        if not good:
            return f"none of {failed} answered"
        lost = f", {failed} of {len(times)} failed" if failed else ""
        return f"{1000 * median(good):.0f}, {1000 * max(good):.0f} ms{lost}"

    cells = [
        name,
        mb(cost.memory_bytes),
        str(cost.descriptors),
        mb(cost.log_bytes),
        f"{mb(cost.hidden_bytes)}, {mb(cost.hidden_after)}",
        mb(cost.disk_bytes),
        took(honest.agent),
        took(honest.person),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
