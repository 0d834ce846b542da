"""The whole engine on a real server, alone and beside other engines, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from coordinator.doors.rest.metrics import Metrics
from coordinator.engine.agent_calls import AgentCalls
from coordinator.engine.aggregator_calls import AggregatorCalls
from coordinator.engine.assembly import Engine, assemble
from coordinator.engine.driver_calls import DriverCalls
from coordinator.engine.people_calls import PeopleCalls
from coordinator.engine.state_reader import StateReader
from coordinator.state import formats
from coordinator.state.errors import (
    AgentNotFound,
    JobNotFound,
    JobTooNew,
    JobUnreadable,
    RoundNotFound,
    StateUnavailable,
    UnknownClient,
)
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Status
from coordinator.state.records import CheckTask, OpenTask, RoundTask
from coordinator.state.round_state import Phase
from coordinator.store.binding import Binding
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.process.redis_server import free_port
from tests.builders import a_prepared, a_receipt, a_result, a_spec, a_version
from tests.coordinator.engine.federation import Federation
from tests.looking import events_of, round_of, rounds_of
from tests.sites import FACTS, all_fit

MAY = {
    AgentCalls: "admit check_free check_instance check_open client_failed count_traffic evaluated job_of next_task "
    "progress register report site_checked withdraw",
    PeopleCalls: "cancel create delete describe expect forget_agent give_agent pause resume roll_back "
    "with_whole_weights would_create",
    DriverCalls: "leading note_refusal tick_all",
    AggregatorCalls: "aggregated aggregation_failed begin_attempt forget_attempts keep_lease leading "
    "loaded_back preparation_failed prepared update_lost weights_lost weights_made",
    StateReader: "active_jobs agents counters events history job jobs leases live_progress mark newest_evaluated "
    "page_of_rounds presence refusal round rounds rounds_from summaries team totals totals_of_deleted traffic tried "
    "version versions_to_come wait_for_change",
}


@pytest.mark.parametrize("part", MAY)
def test_a_caller_holds_what_it_may_do_and_nothing_else(part: type) -> None:
    """For example, the agents' door cannot cancel a job, and mypy refuses the attempt."""
    assert sorted(name for name in vars(part) if not name.startswith("_")) == MAY[part].split()


async def test_a_federation_from_post_to_completed(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    job, created = await engine.people.create(a_spec())
    assert (created, job.status) == (True, Status.PENDING)
    for client in ("a", "b"):
        asked = await engine.agents.next_task(client)
        assert isinstance(asked, CheckTask)
        assert asked.job.id == job.id
        await engine.agents.site_checked(job.id, client, None, FACTS)
    assert await engine.agents.next_task("a") is None
    await engine.aggregator.prepared(job.id, a_prepared())
    for number in (1, 2):
        for client in ("a", "b"):
            task = await engine.agents.next_task(client)
            assert isinstance(task, RoundTask)
            assert (task.round.kind, task.round.number, task.round.model_version) == ("train", number, number - 1)
            assert (task.round.evaluate, task.remaining_s) == (True, 60.0)
            assert (await engine.agents.evaluated(job.id, number, client, a_result(number - 1))).outcome == "accepted"
            assert (await engine.agents.report(job.id, number, client, a_receipt(client))).outcome == "accepted"
        assert (await round_of(engine, job.id, number)).phase is Phase.AGGREGATION
        await engine.aggregator.aggregated(job.id, number, a_version(number), {"qr": 0.1}, {"joint_rank": 2.0})
    for client in ("a", "b"):
        task = await engine.agents.next_task(client)
        assert isinstance(task, RoundTask)
        assert (task.round.kind, task.round.model_version) == ("evaluate", 2)
        assert (await engine.agents.evaluated(job.id, 3, client, a_result(2))).outcome == "accepted"
    assert "is being loaded back" in (await engine.reader.job(job.id)).reason
    job = await engine.aggregator.loaded_back(job.id, LoadedBack(2))
    assert (job.status, job.model, job.round) == (Status.COMPLETED, a_version(2), None)
    rounds = await rounds_of(engine, job.id)
    assert [(each.number, each.kind, each.phase) for each in rounds] == [
        (1, "train", Phase.COMMITTED),
        (2, "train", Phase.COMMITTED),
        (3, "evaluate", Phase.COMMITTED),
    ]
    assert rounds[0].timings == {"qr": 0.1}
    assert await engine.reader.active_jobs() == []
    assert await engine.agents.next_task("a") is None
    streamed = [(kind, data.get("phase") or data.get("status")) for _, kind, data in await events_of(engine, job.id)]
    assert streamed[0] == ("job.status", "PENDING")
    assert streamed[-2:] == [("round.phase", "COMMITTED"), ("job.status", "COMPLETED")]


async def test_many_writers_lose_nothing(federation: Federation, engine: Engine) -> None:
    clients = [f"client-{i:02d}" for i in range(24)]
    await federation.enrol(*clients)
    job, _ = await engine.people.create(a_spec(rounds={"count": 1, "min_clients": len(clients)}))
    engines = [engine, federation.another(), federation.another()]
    await all_fit(engine)
    await asyncio.gather(
        engine.aggregator.prepared(job.id, a_prepared()), *(each.driver.tick_all() for each in engines)
    )
    await engine.driver.tick_all()

    async def take_part(client: str, door: Engine) -> None:
        assert await door.agents.next_task(client) is not None
        assert (await door.agents.report(job.id, 1, client, a_receipt(client))).outcome == "accepted"

    doors = [engines[i % len(engines)] for i in range(len(clients))]
    ticking = [each.driver.tick_all() for each in engines]
    await asyncio.gather(*map(take_part, clients, doors), *ticking)
    current = await round_of(engine, job.id, 1)
    assert (current.phase, current.reports) == (Phase.AGGREGATION, len(clients))
    assert {client: each.receipt for client, each in current.participants.items()} == {
        client: a_receipt(client) for client in clients
    }
    streamed = [kind for _, kind, _ in await events_of(engine, job.id)]
    assert streamed.count("client.report") == streamed.count("client.task") == len(clients)
    outcomes = await asyncio.gather(*(each.aggregator.aggregated(job.id, 1, a_version(1), {}, {}) for each in engines))
    assert {outcome.rounds_opened for outcome in outcomes} <= {1, 2}
    assert len(await rounds_of(engine, job.id)) == 2


async def test_unknown_things_are_named(federation: Federation, engine: Engine) -> None:
    calls: list[Coroutine[Any, Any, object]]
    with pytest.raises(JobNotFound, match=r"job 'job-x' does not exist; .* \(GET /api/v1/jobs\) shows"):
        await engine.reader.job("job-x")
    calls = [
        engine.people.pause("job-x"),
        rounds_of(engine, "job-x"),
        events_of(engine, "job-x"),
    ]
    for call in calls:
        with pytest.raises(JobNotFound):
            await call
    calls = [
        engine.agents.check_open("job-x", 1, "a"),
        engine.agents.next_task("a"),
        engine.agents.report("job-x", 1, "a", a_receipt()),
    ]
    for call in calls:
        with pytest.raises(UnknownClient, match="register first"):
            await call
    job_id = await federation.running()
    calls = [round_of(engine, job_id, 7), engine.agents.report(job_id, 7, "a", a_receipt())]
    for call in calls:
        with pytest.raises(RoundNotFound, match=f"job {job_id} has no round 7"):
            await call
    with pytest.raises(AgentNotFound):
        await engine.people.forget_agent("nobody")


async def test_an_unreadable_job_stops_no_other_job(federation: Federation, engine: Engine) -> None:
    broken = await federation.running()
    await federation.enrol("a", "b")
    async with Redis.from_url(federation.url) as redis:
        await redis.hset(f"fedgalore:job:{broken}", "document", "{}")
    job, _ = await engine.people.create(a_spec())
    await all_fit(engine)
    await engine.driver.tick_all()
    await engine.aggregator.prepared(job.id, a_prepared())
    await engine.driver.tick_all()
    task = await engine.agents.next_task("a")
    assert isinstance(task, RoundTask)
    assert task.job.id == job.id
    assert (
        [each.id for each in await engine.reader.jobs()]
        == [each.id for each in await engine.reader.active_jobs()]
        == [job.id]
    )
    assert [each.task for each in await engine.reader.agents()] == [OpenTask(job.id, 1)] * 2
    assert b'fedgalore_jobs{status="RUNNING"} 2.0' in await Metrics(engine.reader).render()
    with pytest.raises(JobUnreadable, match=broken):
        await engine.reader.job(broken)


async def test_a_job_of_a_newer_release_is_left_to_replicas_of_that_release(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, job_id = federation.engine, await federation.running()
    await newer.driver.tick_all()
    monkeypatch.setattr(formats, "FORMAT", 9)
    monkeypatch.setattr(formats, "NEEDS", {9: lambda job: job.labels.description == "new"})
    await newer.people.describe(job_id, None, "new")
    await newer.driver.tick_all()
    redis, key = federation.store.connection.redis, federation.store.connection.job(job_id)
    before = await redis.hgetall(key)

    monkeypatch.setattr(formats, "FORMAT", 8)
    older = federation.another()
    await older.driver.tick_all()
    for call in (
        older.agents.next_task("a"),
        older.agents.report(job_id, 1, "a", a_receipt("a")),
        older.people.pause(job_id),
    ):
        with pytest.raises(JobTooNew, match="format is 9, .* up to 8.*; upgrade this coordinator, or call") as caught:
            await call
        assert (caught.value.http_status, caught.value.grpc_status) == (503, "UNAVAILABLE")  # agents try elsewhere
    blobs = DirectoryBlobStore(tmp_path)
    with pytest.raises(StateUnavailable, match="a newer version has written"):
        await Collector(federation.store, blobs, Binding(federation.store, blobs)).collect(0.0)
    other, _ = await older.people.create(a_spec())
    assert [each.id for each in await older.reader.jobs()] == [other.id]  # and serves what it knows

    assert await redis.hgetall(key) == before
    monkeypatch.setattr(formats, "FORMAT", 9)
    await newer.agents.report(job_id, 1, "a", a_receipt("a"))


async def test_a_check_of_a_newer_release_is_asked_for_at_a_replica_of_that_release(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, older = federation.engine, federation.another()
    await federation.enrol("a")
    job, _ = await newer.people.create(a_spec())
    monkeypatch.setattr(formats, "FORMAT", 9)
    monkeypatch.setattr(formats, "NEEDS", {9: lambda job: job.labels.description == "new"})
    await newer.people.describe(job.id, None, "new")
    monkeypatch.setattr(formats, "FORMAT", 8)
    with pytest.raises(JobTooNew):
        await older.agents.next_task("a")
    monkeypatch.setattr(formats, "FORMAT", 9)
    assert isinstance(await newer.agents.next_task("a"), CheckTask)


@pytest.mark.slow
async def test_a_store_that_is_away_is_a_domain_error() -> None:
    engine = assemble(RedisStateStore(f"redis://127.0.0.1:{free_port()}/0"))
    for call in (
        engine.reader.job("job-1"),
        engine.people.create(a_spec()),
        engine.reader.jobs(),
        engine.agents.next_task("a"),
        engine.driver.tick_all(),
    ):
        with pytest.raises(StateUnavailable):
            await call
    assert await engine.reader.wait_for_change(0.05) is False
    await engine.close()
