"""What people may do: they create, pause, resume and cancel jobs, and remove agents."""

from __future__ import annotations

import pytest

from coordinator.engine.assembly import Engine, assemble
from coordinator.state.errors import (
    IdempotencyConflict,
    IllegalTransition,
    RoundClosed,
    TooMany,
    UnknownClient,
)
from coordinator.state.job_state import Status
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_receipt, a_spec, a_version
from tests.coordinator.engine.federation import Federation
from tests.looking import round_of


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
    await engine.driver.tick(job_id)
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
