"""What people may do: they create, pause, resume and cancel jobs, and remove agents."""

from __future__ import annotations

import pytest
import redis

from coordinator.engine.assembly import Engine, assemble
from coordinator.state.errors import (
    IdempotencyConflict,
    IllegalTransition,
    JobNotFound,
    JobUnreadable,
    RoundClosed,
    TooMany,
    UnknownClient,
)
from coordinator.state.job_state import Status
from coordinator.store.garbage import named_by
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_prepared, a_receipt, a_spec, a_version
from tests.coordinator.engine.federation import Federation
from tests.looking import round_of, rounds_of


async def test_an_idempotency_key_belongs_to_a_single_job_and_document(engine: Engine) -> None:
    first, created = await engine.people.create(a_spec(), "key")
    again, created_again = await engine.people.create(a_spec(), "key")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(IdempotencyConflict, match=f"belongs to job {first.id}"):
        await engine.people.create(a_spec(seed=1), "key")


async def test_pause_resume_cancel(federation: Federation, engine: Engine) -> None:
    job, _ = await engine.people.create(a_spec())
    with pytest.raises(IllegalTransition, match="PENDING"):
        await engine.people.pause(job.id)
    job_id = await federation.running()
    assert (await engine.people.pause(job_id)).status is Status.PAUSED
    await federation.committed(job_id)
    await engine.driver.tick_all()
    assert (await engine.reader.job(job_id)).round is None
    await engine.people.resume(job_id)
    assert (await engine.reader.job(job_id)).round is not None
    assert (await engine.people.cancel(job_id)).status is Status.CANCELLED
    with pytest.raises(RoundClosed, match="the job was cancelled"):
        await engine.agents.report(job_id, 2, "a", a_receipt())
    with pytest.raises(RoundClosed):
        await engine.aggregator.aggregated(job_id, 2, a_version(2), {}, {})
    assert (await engine.people.cancel(job_id)).status is Status.CANCELLED  # asked again
    with pytest.raises(IllegalTransition):
        await engine.people.resume(job_id)
    assert await engine.agents.next_task("a") is None


async def test_a_forgotten_agent_gives_its_task_back(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.people.forget_agent("a")
    assert (await round_of(engine, job_id, 1)).reason.endswith("a: removed by the operator")
    assert [agent.name for agent in await engine.reader.agents()] == ["b"]
    with pytest.raises(UnknownClient):
        await engine.agents.next_task("a")


async def test_no_more_jobs_and_clients_than_the_limits(redis_url: str) -> None:
    engine = assemble(RedisStateStore(redis_url), max_agents=2, max_jobs=2)
    try:
        for client in ("a", "b", "a"):  # a known client may always register again
            await engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
        with pytest.raises(TooMany, match="2 are enrolled.*FEDGALORE_MAX_AGENTS"):
            await engine.agents.register("c", PROTOCOL_VERSION, "0.1", {"reviews": 20})
        with pytest.raises(TooMany, match="FEDGALORE_MAX_AGENTS"):
            await engine.people.expect("c")
        await engine.people.forget_agent("a")
        await engine.people.expect("c")
        jobs = [(await engine.people.create(a_spec(), key))[0] for key in ("one", "two")]
        with pytest.raises(TooMany, match="2 jobs are active.*FEDGALORE_MAX_JOBS"):
            await engine.people.create(a_spec(), "three")
        assert (await engine.people.create(a_spec(), "two")) == (jobs[1], False)  # asked again, it exists already
        await engine.people.cancel(jobs[0].id)
        assert (await engine.people.create(a_spec(), "three"))[1]
    finally:
        await engine.close()


async def deleted(engine: Engine, job_id: str, *, cancel: bool = False, held: bool = False) -> int:
    return await engine.people.delete(
        job_id, cancel=cancel, stored_bytes=lambda blob: blob.size_bytes if held else None
    )


async def test_a_deleted_job_leaves_nothing_but_totals_and_the_names_of_its_blobs(
    federation: Federation, engine: Engine, redis_url: str
) -> None:
    job_id = await federation.running(rounds={"count": 3})
    await engine.agents.count_traffic(job_id, 1, "a", "up", 100)
    await federation.committed(job_id)
    with pytest.raises(IllegalTransition, match="RUNNING: only a job that has ended can be deleted.*cancel=true"):
        await deleted(engine, job_id)
    named = named_by(await engine.reader.job(job_id), await rounds_of(engine, job_id))
    assert await deleted(engine, job_id, cancel=True, held=True) == sum(blob.size_bytes for blob in named)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.keys(f"*{job_id}*") == []
        assert client.smembers("fedgalore:discarded") == {blob.sha256 for blob in named}
        assert client.exists("fedgalore:active", "fedgalore:jobs", "fedgalore:tasks:a", "fedgalore:tasks:b") == 0
    assert await engine.reader.totals_of_deleted() == {"committed": 1, "abandoned": 1, "up": 100, "down": 0}
    with pytest.raises(JobNotFound, match="does not exist"):
        await deleted(engine, job_id, cancel=True)


async def test_what_comes_late_for_a_deleted_job_ends_cleanly_and_leaves_nothing(
    federation: Federation, engine: Engine, redis_url: str
) -> None:
    job_id = await federation.running()
    assert (await engine.agents.next_task("a")) is not None
    await deleted(engine, job_id, cancel=True)
    assert await engine.agents.next_task("a") is None
    goes_on, reason = await engine.agents.progress(job_id, 1, "a", "train", 1, 0.5)
    assert (goes_on, "does not exist" in reason) == (False, True)
    with pytest.raises(JobNotFound):  # which an agent takes for the end of the round
        await engine.agents.report(job_id, 1, "a", a_receipt())
    await engine.agents.count_traffic(job_id, 1, "a", "up", 100)
    assert await engine.aggregator.begin_attempt(job_id, "round 1") == 0
    await engine.driver.tick_all()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.keys(f"*{job_id}*") == []


async def test_a_key_is_free_again_and_shared_blobs_do_not_count(federation: Federation, engine: Engine) -> None:
    await federation.running()  # names the same blobs
    job, _ = await engine.people.create(a_spec(), "key")
    await engine.aggregator.prepared(job.id, a_prepared())
    assert await deleted(engine, job.id, cancel=True, held=True) == 0
    again, created = await engine.people.create(a_spec(seed=1), "key")
    assert (created, again.id != job.id) == (True, True)


async def test_a_list_goes_on_after_a_job_that_was_deleted_meanwhile(federation: Federation, engine: Engine) -> None:
    ids = []
    for _ in range(4):
        ids.append((await engine.people.create(a_spec()))[0].id)
        federation.clock.now += 1
    await deleted(engine, ids[2], cancel=True)
    assert [job.id for job in await engine.reader.jobs(after=ids[2])] == [ids[1], ids[0]]
    with pytest.raises(JobNotFound):
        await engine.reader.jobs(after="nothing")


async def test_a_job_that_cannot_be_read_can_be_deleted(engine: Engine, redis_url: str) -> None:
    job, _ = await engine.people.create(a_spec(), "key")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset(f"fedgalore:job:{job.id}", "document", "{}")
        with pytest.raises(JobUnreadable, match="or delete it with cancel=true"):
            await deleted(engine, job.id)
        assert await deleted(engine, job.id, cancel=True) == 0
        assert client.keys(f"*{job.id}*") == []
    assert (await engine.people.create(a_spec(seed=1), "key"))[1]
