"""Of several processes only the holder of the lease drives jobs. A process that lost the lease writes nothing more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from coordinator import driver
from coordinator.engine.assembly import Engine, assemble
from coordinator.engine.lease import Lease
from coordinator.state import job as jobs
from coordinator.state.errors import LeaseLost, StateUnavailable
from coordinator.state.job_state import Status
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_prepared, a_receipt, a_spec, a_version
from tests.sites import all_fit

LEASE_S = 1.0
LONG_S = 20.0


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStateStore]:
    store = RedisStateStore(redis_url)
    yield store
    await store.close()


@asynccontextmanager
async def kept(lease: Lease, in_order: bool = True) -> AsyncIterator[Lease]:
    """Keeps the lease until the block's end. If not `in_order`, the process dies without giving the lease up."""
    keeping = asyncio.create_task(lease.keep())
    try:
        yield lease
    finally:
        if not in_order:
            lease.drop()
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def held_after(lease: Lease) -> float:
    """Seconds until the lease is held."""
    started = time.monotonic()
    async with asyncio.timeout(LONG_S):
        await lease.held()
    return time.monotonic() - started


@pytest.mark.slow
async def test_a_second_process_takes_over_when_the_first_gives_the_lease_up(store: RedisStateStore) -> None:
    second = Lease(store, "driver", LEASE_S)
    async with kept(Lease(store, "driver", LEASE_S)) as first:
        await held_after(first)
        async with kept(second):
            await asyncio.sleep(2 * LEASE_S)
            assert (first.is_held, second.is_held) == (True, False)
            with pytest.raises(LeaseLost, match="driver"):
                _ = second.fence
            async with kept(Lease(store, "aggregator", LEASE_S)) as other:
                await held_after(other)  # a lease of another name is independent
    async with kept(second):
        assert await held_after(second) < LEASE_S  # it was given up, so nobody waits for its end
        assert second.fence.token > 1


@pytest.mark.slow
async def test_a_dead_holder_costs_at_most_the_lease(store: RedisStateStore) -> None:
    async with kept(Lease(store, "driver", LEASE_S), in_order=False) as first:
        await held_after(first)
        before = first.fence.token
    async with kept(Lease(store, "driver", LEASE_S)) as second:
        assert await held_after(second) < 1.5 * LEASE_S
        assert second.fence.token > before


async def test_a_token_is_higher_than_one_that_a_failover_lost(store: RedisStateStore) -> None:
    first = await store.take_lease("driver", "one", LONG_S)
    await store.connection.redis.delete(store.connection.key("lease:driver"), store.connection.key("tokens"))
    await asyncio.sleep(0.002)
    second = await store.take_lease("driver", "two", LONG_S)
    assert first is not None and second is not None and second > first
    await store.release_lease("driver", "two")
    assert (await store.take_lease("driver", "one", LONG_S) or 0) > second


async def running(engine: Engine) -> str:
    """A job whose first round waits for its last report."""
    for client in "ab":
        await engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
    job_id = (await engine.people.create(a_spec()))[0].id
    await all_fit(engine)
    await engine.aggregator.prepared(job_id, a_prepared())
    await engine.driver.tick_all()
    return job_id


@pytest.mark.slow
async def test_who_lost_the_lease_writes_nothing(store: RedisStateStore) -> None:
    paused = Lease(store, "driver", LEASE_S)
    taking_over = Lease(store, "driver", LEASE_S)
    asleep, awake = assemble(store, lease=paused), assemble(store, lease=taking_over)
    async with kept(paused, in_order=False):
        await held_after(paused)
        job_id = await running(asleep)
        for client in "ab":
            await asleep.agents.report(job_id, 1, client, a_receipt(client))
    paused._ends = time.monotonic() + 1000  # it does not know of the loss: its process and its clock were stopped
    async with kept(taking_over):
        await held_after(taking_over)
        before = await store.load(job_id)
        for write in (
            lambda: asleep.aggregator.aggregated(job_id, 1, a_version(1), {}, {}),
            lambda: asleep.aggregator.aggregation_failed(job_id, 1, "too little memory"),
            lambda: asleep.aggregator.preparation_failed(job_id, "no such model"),
            lambda: asleep.aggregator.update_lost(job_id, 1, "a", a_receipt("a").blob, "damaged"),
        ):
            paused._ends = time.monotonic() + 1000
            with pytest.raises((LeaseLost, jobs.IllegalTransition)):
                await write()
            assert await store.load(job_id) == before
        await awake.aggregator.aggregated(job_id, 1, a_version(1), {}, {})
    after = await asleep.reader.job(job_id)  # reading needs no lease
    assert after.model == a_version(1)


async def test_clients_and_people_are_heard_by_every_replica(store: RedisStateStore) -> None:
    lease = Lease(store, "driver", LEASE_S)
    leading, other = assemble(store, lease=lease), assemble(store, lease=Lease(store, "driver", LEASE_S))
    async with kept(lease):
        await held_after(lease)
        job_id = await running(leading)
        assert (await other.agents.report(job_id, 1, "a", a_receipt("a"))).outcome == "accepted"
        assert (await other.people.pause(job_id)).status is Status.PAUSED
        assert (await other.people.resume(job_id)).status is Status.RUNNING
        with pytest.raises(LeaseLost):
            await other.driver.tick_all()


async def test_the_driver_waits_for_the_lease(store: RedisStateStore) -> None:
    lease = Lease(store, "driver", LEASE_S)
    engine, other = assemble(store, lease=lease), assemble(store, lease=lease)
    async with kept(Lease(store, "driver", LEASE_S)) as leading:
        await held_after(leading)
        job_id = (await engine.people.create(a_spec()))[0].id
        ticking = asyncio.create_task(driver.tick(other.driver))
        await assemble(store).aggregator.prepared(job_id, a_prepared())  # it ticks once: this engine has no lease
        await engine.people.cancel(job_id)
        again = (await engine.people.create(a_spec()))[0].id
        stored = await store.load(again)
        assert stored is not None
    try:
        async with kept(lease):
            await held_after(lease)
            await all_fit(engine)
            await engine.aggregator.prepared(again, a_prepared())
            async with asyncio.timeout(LONG_S):
                while (await engine.reader.job(again)).round is None:
                    await engine.reader.wait_for_change(0.05)
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


async def test_no_lease_is_taken_from_a_store_that_is_not_ours(store: RedisStateStore) -> None:
    ours = False

    async def check() -> None:
        if not ours:
            raise StateUnavailable("blob_dir belongs to another Redis")

    lease = Lease(store, "driver", LEASE_S, check)
    with capture_logs() as logged:
        for _ in range(2):
            await lease._turn()
    assert [(row["event"], row["reason"]) for row in logged] == [
        ("state_unavailable", "blob_dir belongs to another Redis")
    ]
    assert await store.take_lease("driver", "its own coordinator", LEASE_S) is not None
    await store.release_lease("driver", "its own coordinator")
    ours = True
    await lease._turn()
    assert lease.is_held
