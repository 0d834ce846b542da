"""Sites are asked whether their data fit a job as soon as it is posted, and only those whose data fit are drawn."""

from __future__ import annotations

import asyncio

from coordinator.engine.assembly import Engine
from coordinator.state.job_state import Status
from coordinator.state.records import CheckTask, RoundTask
from coordinator.state.round_state import Phase
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_prepared, a_spec
from tests.coordinator.engine.federation import Federation
from tests.looking import round_of
from tests.sites import FACTS, all_fit


async def test_a_waiting_agent_is_asked_at_once_while_the_model_is_prepared(
    federation: Federation, engine: Engine
) -> None:
    await federation.enrol("a", "b")
    waiting = asyncio.create_task(federation.another().agents.next_task("a", wait_s=20))
    await asyncio.sleep(0.1)
    job, _ = await engine.people.create(a_spec())
    async with asyncio.timeout(3):
        asked = await waiting
    assert isinstance(asked, CheckTask)
    assert (asked.job.id, asked.job.model) == (job.id, None)
    assert (await engine.reader.job(job.id)).unanswered == {"a", "b"}


async def test_a_site_that_does_not_fit_is_not_drawn(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b", "c")
    job, _ = await engine.people.create(a_spec())
    await engine.agents.site_checked(job.id, "a", "train.csv: there is no column 'label'; name it", FACTS)
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    assert set((await round_of(engine, job.id, 1)).participants) == {"b", "c"}
    await engine.agents.client_failed(job.id, 1, "b", "no memory")
    assert "a" not in (await round_of(engine, job.id, 1)).participants  # nor does it step in


async def test_a_job_that_nobody_fits_pauses_before_it_is_prepared(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    job, _ = await engine.people.create(a_spec())
    for client in "ab":
        await engine.agents.site_checked(job.id, client, "there is no column 'label'", None)
    await engine.driver.tick_all()
    paused = await engine.reader.job(job.id)
    assert paused.status is Status.PAUSED
    assert "a: there is no column 'label'; b: there is no column 'label'" in paused.reason
    federation.clock.now += 1
    await engine.agents.register("a", PROTOCOL_VERSION, "0.1", {"reviews": 20})  # its data are mended
    assert (await engine.reader.job(job.id)).unanswered == {"a"}
    await engine.agents.site_checked(job.id, "a", None, FACTS)
    assert (await engine.people.resume(job.id)).status is Status.PENDING
    await engine.driver.tick_all()
    assert (await engine.reader.job(job.id)).unanswered == {"b"}
    await engine.agents.site_checked(job.id, "b", None, FACTS)
    await engine.aggregator.prepared(job.id, a_prepared())
    assert (await round_of(engine, job.id, 1)).phase is Phase.CONFIGURATION


async def test_a_site_that_comes_later_is_asked_and_drawn(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running(rounds={"count": 3})
    await engine.agents.register("c", PROTOCOL_VERSION, "0.1", {"reviews": 20})
    task = await engine.agents.next_task("c")
    assert isinstance(task, CheckTask)
    await engine.agents.site_checked(job_id, "c", None, FACTS)
    await engine.agents.client_failed(job_id, 1, "a", "no memory")
    task = await engine.agents.next_task("c")
    assert isinstance(task, RoundTask)


async def test_a_data_set_that_nobody_offers_is_said_when_the_job_is_posted(
    federation: Federation, engine: Engine
) -> None:
    await federation.enrol("a", "b", data="notes")
    job, _ = await engine.people.create(a_spec())
    shown = (await engine.reader.job(job.id)).reason
    assert "nobody offers 'reviews'; offered are notes (2 agents)" in shown
    assert await engine.agents.next_task("a") is None


async def test_an_answer_to_a_job_that_has_ended_changes_nothing(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a")
    job, _ = await engine.people.create(a_spec())
    await engine.people.cancel(job.id)
    assert await engine.agents.next_task("a") is None
    await engine.agents.site_checked(job.id, "a", None, FACTS)
    assert (await engine.reader.job(job.id)).sites["a"].answered_at is None


async def test_a_long_problem_loses_its_end(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a")
    job, _ = await engine.people.create(a_spec())
    await engine.agents.site_checked(job.id, "a", "no " * 100_000, None)
    problem = (await engine.reader.job(job.id)).sites["a"].problem
    assert problem is not None
    assert (len(problem), problem[-1]) == (2000, "…")
