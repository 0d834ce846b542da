"""Engines on a shared server, as in several processes, and a clock that the test moves."""

from __future__ import annotations

from itertools import count
from typing import Any

from coordinator.engine.assembly import Engine, assemble
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_prepared, a_receipt, a_spec, a_version
from tests.sites import all_fit


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Federation:
    """Engines on a shared server, as in several processes, with a shared clock."""

    def __init__(self, url: str) -> None:
        self.url, self.clock, self.tokens = url, Clock(), count()
        self.engines: list[Engine] = []
        self.engine = self.another()

    def another(self) -> Engine:
        self.store = store = RedisStateStore(self.url)
        self.engines.append(assemble(store, self.clock, presence_s=30, token=lambda: f"{next(self.tokens):08x}"))
        return self.engines[-1]

    async def enrol(self, *clients: str, data: str = "reviews") -> None:
        for client in clients:
            await self.engine.agents.register(client, PROTOCOL_VERSION, "0.1", {data: 20})
        await all_fit(self.engine)

    async def running(self, **sections: Any) -> str:
        """A prepared job with the agents a and b, its first round in CONFIGURATION."""
        await self.enrol("a", "b")
        job, _ = await self.engine.people.create(a_spec(**sections))
        await all_fit(self.engine)
        await self.engine.aggregator.prepared(job.id, a_prepared())
        return job.id

    async def saves(self, job_id: str) -> int:
        """How often the job was saved."""
        return (await self.store.saves([job_id]))[job_id]

    async def committed(self, job_id: str) -> None:
        """The round in flight is trained by all its clients and aggregated."""
        current = (await self.engine.reader.job(job_id)).round
        assert current is not None
        for client in sorted(current.participants):
            if client in current.open_clients:
                await self.engine.agents.report(job_id, current.number, client, a_receipt(client))
        await self.engine.aggregator.aggregated(job_id, current.number, a_version(current.model_version + 1), {}, {})
