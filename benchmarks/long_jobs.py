"""What a long job, and many jobs, cost whoever looks at them.

    python -m benchmarks.long_jobs                  # a job of 1000 rounds with 10 clients, and 1000 jobs
    python -m benchmarks.long_jobs --rounds 5000 --jobs 1000

The rounds are copies of one that was played, so that it takes seconds. Printed for each request: the median and the
slowest of its repetitions, and how long the event loop was held at once by all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import redis
from pydantic import TypeAdapter

from coordinator.engine.assembly import Engine, assemble
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.state.round_state import Round
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.process import logs
from fedgalore.process.redis_server import RedisServer
from fedgalore.version import PROTOCOL_VERSION
from tests.builders import a_prepared, a_receipt, a_result, a_spec, a_version
from tests.sites import all_fit

REPETITIONS = 20
ROUND = TypeAdapter(Round)


async def play(engine: Engine, rounds: int, clients: int) -> str:
    """A job of so many rounds, of which the first was played."""
    names = [f"site-{number}" for number in range(clients)]
    for name in names:
        await engine.agents.register(name, PROTOCOL_VERSION, "0", {"reviews": 20})
    section = {"count": rounds + 1, "min_clients": clients, "deadline_s": 3600}
    job, _ = await engine.people.create(a_spec(rounds=section))
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    await engine.driver.tick_all()
    for name in names:
        await engine.agents.evaluated(job.id, 1, name, a_result())
        await engine.agents.report(job.id, 1, name, a_receipt(name))
        await engine.agents.count_traffic(job.id, 1, name, "up", 1000)
    await engine.aggregator.aggregated(job.id, 1, a_version(1), {}, {})
    await engine.people.pause(job.id)
    return job.id


async def stretch(store: RedisStateStore, url: str, job_id: str, rounds: int) -> None:
    """Copies the first round of a job, and says in its record that there were so many."""
    loaded, first = await store.load(job_id), await store.closed_round(job_id, 1)
    assert loaded is not None
    assert first is not None
    job = replace(loaded.job, rounds_opened=rounds, model=a_version(rounds), round=None)
    documents = {}
    for number in range(1, rounds + 1):
        copy = replace(first, number=number, model_version=number - 1, result=a_version(number))
        for name, each in first.participants.items():
            told = replace(each.evaluation, model_version=number - 1) if each.evaluation else None
            copy.participants[name] = replace(each, evaluation=told)
        documents[str(number)] = ROUND.dump_json(copy).decode()
    with redis.Redis.from_url(url) as client:
        client.hset(f"fedgalore:job:{job_id}", mapping={"document": job.to_json(), "round": ""})
        client.hset(f"fedgalore:job:{job_id}:rounds", mapping=documents)
        client.hset(f"fedgalore:job:{job_id}:totals", mapping={"committed": rounds, "evaluated": rounds})


async def stalls(longest: list[float]) -> None:
    """Notes the longest time for which nothing else could run."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0)
        longest[0] = max(longest[0], time.perf_counter() - began)
        await asyncio.sleep(0.001)


async def timed(http: httpx.AsyncClient, what: str, path: str) -> None:
    """Prints a line."""
    longest, times = [0.0], []
    watcher = asyncio.create_task(stalls(longest))
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        (await http.get(path)).raise_for_status()
        times.append(time.perf_counter() - began)
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    median, slowest, stall = (f"{1000 * each:8.1f}" for each in (statistics.median(times), max(times), longest[0]))
    print(f"{what:40} {median} {slowest} {stall}")


async def measure(url: str, folder: Path, rounds: int, clients: int, n_jobs: int) -> None:
    """Builds the state and prints a table."""
    store = RedisStateStore(url)
    engine = assemble(store, max_jobs=n_jobs + 1)
    settings = CoordinatorSettings(
        redis_url=url, blob_dir=folder, rest_port=0, grpc_port=0, aggregator=False, max_jobs=n_jobs + 1
    )
    job_id = await play(engine, rounds, clients)
    await stretch(store, url, job_id, rounds)
    for _ in range(n_jobs - 1):
        await engine.people.create(a_spec())
    async with (
        serving(settings, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", timeout=60) as http,
    ):
        job = f"/api/v1/jobs/{job_id}"
        print(f"{rounds} rounds of {clients} clients, {n_jobs} jobs; ms     median  slowest    stall")
        await timed(http, "GET /jobs/{id}", job)
        await timed(http, "GET /jobs/{id}/rounds", f"{job}/rounds")
        await timed(http, "GET /jobs/{id}/rounds, the last 20", f"{job}/rounds?after={rounds - 20}")
        await timed(http, "GET /jobs/{id}/rounds/{last}", f"{job}/rounds/{rounds}")
        await timed(http, "GET /jobs/{id}/metrics", f"{job}/metrics")
        await timed(http, "GET /jobs/{id}/metrics?metric=loss", f"{job}/metrics?metric=loss&limit=50")
        await timed(http, "GET /jobs/{id}/logs", f"{job}/logs")
        await timed(http, "GET /models", "/api/v1/models?limit=100")
        await timed(http, "GET /jobs", "/api/v1/jobs")
        await timed(http, "GET /jobs?name=nothing", "/api/v1/jobs?name=nothing")
        await timed(http, "GET /agents", "/api/v1/agents")
        await timed(http, "GET /metrics", "/metrics")
        await timed(http, "GET /readyz", "/readyz")
    await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1000)
    options = parser.parse_args()
    logs.configure("text", "error")
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        asyncio.run(measure(server.url, Path(folder) / "blobs", options.rounds, options.clients, options.jobs))


if __name__ == "__main__":
    main()
