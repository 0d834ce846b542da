"""Steps of a job that happen with time: rounds open, choose their cohort, and end when they are overdue."""

from __future__ import annotations

import time

import pytest

from coordinator.engine.assembly import Engine, assemble
from coordinator.engine.clock import steady_clock
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Status
from coordinator.state.round_state import Phase
from coordinator.state.setbacks import LONGEST_WAIT_S, TRIES_UNTIL_PAUSE
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_prepared, a_receipt, a_result, a_spec
from tests.coordinator.engine.federation import Federation
from tests.looking import round_of, rounds_of
from tests.sites import all_fit


async def test_a_client_that_works_for_a_job_is_not_chosen_for_another(federation: Federation, engine: Engine) -> None:
    first = await federation.running()
    second, _ = await engine.people.create(a_spec())
    await all_fit(engine)
    await engine.aggregator.prepared(second.id, a_prepared())
    await federation.enrol("c")
    federation.clock.now += 10
    await engine.driver.tick_all()
    reason = (await round_of(engine, second.id, 1)).reason
    assert reason == "waiting: 1 of 2 clients with the data, 2 more are busy with other jobs; 2 do after 5 s"
    assert (await engine.agents.report(first, 1, "a", a_receipt())).outcome == "accepted"
    await engine.driver.tick_all()
    assert set((await round_of(engine, second.id, 1)).participants) == {"a", "c"}


async def test_a_round_past_its_deadline_is_ended_by_a_tick(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.agents.report(job_id, 1, "a", a_receipt())
    federation.clock.now += 61
    await federation.enrol("a", "b")
    await engine.driver.tick_all()
    (first,) = await rounds_of(engine, job_id)
    assert first.phase is Phase.ABANDONED
    assert "the deadline passed with 1 of at least 2 reports" in first.reason
    assert (await engine.reader.job(job_id)).reason.endswith("the next try is in 5 s")
    federation.clock.now += 5
    await engine.driver.tick_all()
    second = await round_of(engine, job_id, 2)
    assert (second.number, second.phase, second.model_version) == (2, Phase.CONFIGURATION, 0)
    assert "round 1 abandoned" in (await engine.reader.job(job_id)).reason


async def test_failures_pause_the_job_in_the_end(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    for number in range(1, TRIES_UNTIL_PAUSE + 1):
        await engine.agents.client_failed(job_id, number, "a", "no memory")
        federation.clock.now += LONGEST_WAIT_S
        await federation.enrol("a", "b")
        await engine.driver.tick_all()
    job = await engine.reader.job(job_id)
    assert job.status is Status.PAUSED
    assert "a: no memory" in job.reason
    assert (await engine.people.resume(job_id)).status is Status.RUNNING
    assert (await round_of(engine, job_id, TRIES_UNTIL_PAUSE + 1)).phase is Phase.CONFIGURATION


async def test_an_idle_client_steps_in_for_one_that_failed(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await federation.enrol("c")
    await engine.agents.client_failed(job_id, 1, "a", "no memory")
    assert (await round_of(engine, job_id, 1)).open_clients == {"b", "c"}
    assert await engine.agents.next_task("c") is not None
    await federation.committed(job_id)
    assert set((await round_of(engine, job_id, 2)).participants) == {"b", "c"}  # a rests


async def test_an_idle_client_steps_in_for_one_that_fell_silent(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    federation.clock.now += 31
    await federation.enrol("b", "c")
    await engine.driver.tick_all()
    assert (await round_of(engine, job_id, 1)).open_clients == {"a", "b", "c"}
    await engine.agents.report(job_id, 1, "b", a_receipt("b"))
    await engine.agents.report(job_id, 1, "c", a_receipt("c"))
    assert (await round_of(engine, job_id, 1)).phase is Phase.AGGREGATION


async def test_the_last_evaluation_asks_everybody_with_the_data(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running(rounds={"count": 1})
    await federation.enrol("c", "d")
    await federation.committed(job_id)
    current = await round_of(engine, job_id, 2)
    assert (current.kind, set(current.participants)) == ("evaluate", {"a", "b", "c", "d"})
    for client in "abc":
        await engine.agents.evaluated(job_id, 2, client, a_result(1))
    federation.clock.now += 61
    await engine.driver.tick_all()
    assert (await engine.aggregator.loaded_back(job_id, LoadedBack(1))).status is Status.COMPLETED


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_ends_no_round_and_holds_none_up(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    engine, clock = assemble(RedisStateStore(redis_url)), steady_clock()
    try:
        for client in "ab":
            await engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
        job = (await engine.people.create(a_spec()))[0]
        await all_fit(engine)
        await engine.aggregator.prepared(job.id, a_prepared())
        before = (await round_of(engine, job.id, 1)).remaining_s(clock())
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + jump_s)
        await engine.driver.tick_all()
        flying = await round_of(engine, job.id, 1)
        assert flying.phase is Phase.CONFIGURATION
        assert before - 30 < flying.remaining_s(clock()) <= before
        assert all(agent.present for agent in await engine.reader.agents())
    finally:
        await engine.close()
