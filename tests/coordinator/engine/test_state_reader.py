"""What readers of the state see, and how they follow changes."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from coordinator.engine.assembly import Engine
from coordinator.state.errors import (
    JobNotFound,
)
from coordinator.state.job_filter import JobFilter
from coordinator.state.job_state import Status
from coordinator.state.records import OpenTask
from coordinator.store.redis_connection import PREFIX
from tests.builders import a_prepared, a_receipt, a_spec
from tests.coordinator.engine.federation import Federation
from tests.looking import events_of, round_of
from tests.sites import all_fit


async def test_job_ids_are_url_safe_and_sort_by_time(federation: Federation, engine: Engine, redis_url: str) -> None:
    ids = []
    for _ in range(5):
        ids.append((await engine.people.create(a_spec()))[0].id)
        federation.clock.now += 0.5
    assert ids == sorted(ids)
    assert all(len(each) == len("job-") + 11 + 1 + 8 for each in ids)
    assert [job.id for job in await engine.reader.jobs()] == ids[::-1]
    assert [job.id for job in await engine.reader.jobs(limit=2)] == [ids[4], ids[3]]
    assert [job.id for job in await engine.reader.jobs(limit=2, after=ids[3])] == [ids[2], ids[1]]
    await engine.people.cancel(ids[0])
    await engine.people.cancel(ids[4])
    cancelled = JobFilter(statuses=frozenset({Status.CANCELLED}))
    assert [job.id for job in await engine.reader.jobs(cancelled, limit=2)] == [ids[4], ids[0]]
    assert [job.id for job in await engine.reader.jobs(cancelled, limit=1)] == [ids[4]]
    assert [job.id for job in await engine.reader.jobs(cancelled, limit=1, after=ids[4])] == [ids[0]]
    async with Redis.from_url(redis_url) as redis:  # as an earlier version of this software left it
        await redis.hdel(f"{PREFIX}:job:{ids[0]}", "facts")
        await redis.hdel(f"{PREFIX}:job:{ids[1]}", "facts")
    assert [job.id for job in await engine.reader.jobs(cancelled)] == [ids[4], ids[0]]
    with pytest.raises(JobNotFound, match="job-x"):
        await engine.reader.jobs(after="job-x")


async def test_agents_are_present_while_they_give_signs_of_life(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    await federation.enrol("c", data="other")
    federation.clock.now += 20
    assert await engine.agents.next_task("b") is None
    federation.clock.now += 20
    assert [(each.name, each.present) for each in await engine.reader.agents()] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]
    assert await engine.agents.next_task("c") is None
    job, _ = await engine.people.create(a_spec(rounds={"min_clients": 1, "selection_wait_s": 0}))
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    current = await round_of(engine, job.id, 1)
    assert set(current.participants) == {"b"}  # a is gone, c has other data
    agents = {each.name: each.task for each in await engine.reader.agents()}
    assert agents == {"a": None, "b": OpenTask(job.id, 1), "c": None}


async def test_events_are_followed_from_the_last_row_that_was_read(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    rows = await events_of(engine, job_id)
    last = rows[-1][0]
    assert await events_of(engine, job_id, after=rows[0][0]) == rows[1:]
    assert await events_of(engine, job_id, after="no id") == rows
    assert await events_of(engine, job_id, after=last, block_s=0.05) == []
    waiting = asyncio.create_task(events_of(federation.another(), job_id, after=last, block_s=10))
    await asyncio.sleep(0.1)
    await engine.agents.report(job_id, 1, "a", a_receipt())
    async with asyncio.timeout(3):
        assert [kind for _, kind, _ in await waiting] == ["client.task", "client.report", "round.phase"]
