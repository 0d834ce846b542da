"""The engine on a real server, alone and several at once, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from itertools import count
from typing import Any

import pytest
from redis.asyncio import Redis

from coordinator.doors.rest.metrics import Metrics
from coordinator.engine.commands import Engine
from coordinator.state.errors import (
    AgentNotFound,
    IdempotencyConflict,
    IllegalTransition,
    InvalidAgent,
    InvalidUpdate,
    JobNotFound,
    JobUnreadable,
    NotParticipant,
    ProtocolMismatch,
    RoundClosed,
    RoundNotFound,
    StateUnavailable,
    TooMany,
    UnknownClient,
)
from coordinator.state.job_state import Status
from coordinator.state.records import AgentRecord, OpenTask
from coordinator.state.round_state import EvaluationResult, Phase, UpdateReceipt
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.redis_server import free_port
from tests.builders import a_blob, a_prepared, a_receipt, a_result, a_spec, a_version


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Federation:
    """Some engines on one server, as several processes have them, and one clock."""

    def __init__(self, url: str) -> None:
        self.url, self.clock, self.tokens = url, Clock(), count()
        self.engines: list[Engine] = []
        self.engine = self.another()

    def another(self) -> Engine:
        store = RedisStateStore(self.url)
        self.engines.append(Engine(store, self.clock, presence_s=30, token=lambda: f"{next(self.tokens):08x}"))
        return self.engines[-1]

    async def enrol(self, *clients: str, data: str = "reviews") -> None:
        for client in clients:
            await self.engine.register(client, PROTOCOL_VERSION, "0.1", {data: 20})

    async def running(self, **sections: Any) -> str:
        """A prepared job with the agents a and b, its first round in CONFIGURATION."""
        await self.enrol("a", "b")
        job, _ = await self.engine.create(a_spec(**sections))
        await self.engine.prepared(job.id, a_prepared())
        return job.id

    async def committed(self, job_id: str) -> None:
        """The round in flight is trained by all its clients and aggregated."""
        current = (await self.engine.get(job_id)).round
        assert current is not None
        for client in sorted(current.participants):
            if client in current.open_clients:
                await self.engine.report(job_id, current.number, client, a_receipt(client))
        await self.engine.aggregated(job_id, current.number, a_version(current.model_version + 1), {}, {})


@pytest.fixture
async def federation(redis_url: str) -> AsyncIterator[Federation]:
    federation = Federation(redis_url)
    yield federation
    for engine in federation.engines:
        await engine.close()


@pytest.fixture
def engine(federation: Federation) -> Engine:
    return federation.engine


async def test_a_federation_from_post_to_completed(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    job, created = await engine.create(a_spec())
    assert (created, job.status) == (True, Status.PENDING)
    assert await engine.next_task("a") is None
    await engine.prepared(job.id, a_prepared())
    for number in (1, 2):
        for client in ("a", "b"):
            task = await engine.next_task(client)
            assert task is not None
            assert (task.round.kind, task.round.number, task.round.model_version) == ("train", number, number - 1)
            assert (task.round.evaluate, task.remaining_s) == (True, 60.0)
            assert await engine.evaluated(job.id, number, client, a_result(number - 1)) == "accepted"
            assert await engine.report(job.id, number, client, a_receipt(client)) == "accepted"
        assert (await engine.round(job.id, number)).phase is Phase.AGGREGATION
        await engine.aggregated(job.id, number, a_version(number), {"qr": 0.1}, {"joint_rank": 2.0})
    for client in ("a", "b"):
        task = await engine.next_task(client)
        assert task is not None
        assert (task.round.kind, task.round.model_version) == ("evaluate", 2)
        assert await engine.evaluated(job.id, 3, client, a_result(2)) == "accepted"
    job = await engine.get(job.id)
    assert (job.status, job.model, job.round) == (Status.COMPLETED, a_version(2), None)
    rounds = await engine.rounds(job.id)
    assert [(one.number, one.kind, one.phase) for one in rounds] == [
        (1, "train", Phase.COMMITTED),
        (2, "train", Phase.COMMITTED),
        (3, "evaluate", Phase.COMMITTED),
    ]
    assert rounds[0].timings == {"qr": 0.1}
    assert await engine.active_jobs() == []
    assert await engine.next_task("a") is None
    told = [(kind, data.get("phase") or data.get("status")) for _, kind, data in await engine.events(job.id)]
    assert told[0] == ("job.status", "PENDING")
    assert told[-2:] == [("round.phase", "COMMITTED"), ("job.status", "COMPLETED")]


async def test_job_ids_are_url_safe_and_sort_by_time(federation: Federation, engine: Engine) -> None:
    ids = []
    for _ in range(5):
        ids.append((await engine.create(a_spec()))[0].id)
        federation.clock.now += 0.5
    assert ids == sorted(ids)
    assert all(len(one) == len("job-") + 11 + 1 + 8 for one in ids)
    assert [job.id for job in await engine.list()] == ids[::-1]
    assert [job.id for job in await engine.list(limit=2)] == [ids[4], ids[3]]
    assert [job.id for job in await engine.list(limit=2, after=ids[3])] == [ids[2], ids[1]]
    await engine.cancel(ids[0])
    await engine.cancel(ids[4])
    assert [job.id for job in await engine.list(status=Status.CANCELLED, limit=2)] == [ids[4], ids[0]]
    assert [job.id for job in await engine.list(status=Status.CANCELLED, limit=1)] == [ids[4]]
    assert [job.id for job in await engine.list(status=Status.CANCELLED, limit=1, after=ids[4])] == [ids[0]]
    with pytest.raises(JobNotFound, match="job-x"):
        await engine.list(after="job-x")


async def test_an_idempotency_key_makes_one_job_of_one_document(engine: Engine) -> None:
    first, created = await engine.create(a_spec(), "key")
    again, created_again = await engine.create(a_spec(), "key")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(IdempotencyConflict, match=f"belongs to job {first.id}"):
        await engine.create(a_spec(seed=1), "key")


async def test_unknown_things_are_named(federation: Federation, engine: Engine) -> None:
    calls: list[Coroutine[Any, Any, object]]
    with pytest.raises(JobNotFound, match=r"job 'job-x' does not exist; GET /api/v1/jobs"):
        await engine.get("job-x")
    calls = [engine.tick("job-x"), engine.pause("job-x"), engine.rounds("job-x"), engine.events("job-x")]
    for call in calls:
        with pytest.raises(JobNotFound):
            await call
    calls = [engine.touch("a"), engine.next_task("a"), engine.report("job-x", 1, "a", a_receipt())]
    for call in calls:
        with pytest.raises(UnknownClient, match="register first"):
            await call
    job_id = await federation.running()
    calls = [engine.round(job_id, 7), engine.report(job_id, 7, "a", a_receipt())]
    for call in calls:
        with pytest.raises(RoundNotFound, match=f"job {job_id} has no round 7"):
            await call
    with pytest.raises(AgentNotFound):
        await engine.forget_agent("nobody")


async def test_registration_refuses_what_can_not_work(engine: Engine) -> None:
    with pytest.raises(ProtocolMismatch, match=f"speaks {PROTOCOL_VERSION + 1} .* {PROTOCOL_VERSION}; upgrade the coo"):
        await engine.register("a", PROTOCOL_VERSION + 1, "9", {"reviews": 1})
    with pytest.raises(ProtocolMismatch, match="upgrade the agent"):
        await engine.register("a", PROTOCOL_VERSION - 1, "0", {"reviews": 1})
    with pytest.raises(InvalidAgent, match=r"client: 'a/b' cannot be a name"):
        await engine.register("a/b", PROTOCOL_VERSION, "0.1", {})
    with pytest.raises(InvalidAgent, match=r"datasets\.reviews: has no training examples"):
        await engine.register("a", PROTOCOL_VERSION, "0.1", {"reviews": 0})
    with pytest.raises(InvalidAgent, match="datasets: has 1001 entries"):
        await engine.register("a", PROTOCOL_VERSION, "0.1", {f"d{number}": 1 for number in range(1001)})
    assert await engine.agents() == []


async def test_who_registered_with_another_protocol_version_has_to_do_it_again(
    federation: Federation, engine: Engine
) -> None:
    """As after an upgrade of the coordinator, while the agent runs on."""
    store = RedisStateStore(federation.url)
    old = AgentRecord("a", {"reviews": 20}, "0.0", federation.clock.now, PROTOCOL_VERSION - 1)
    await store.register(old, federation.clock.now)
    await store.close()
    with pytest.raises(UnknownClient, match="register first"):
        await engine.next_task("a")
    job, _ = await engine.create(a_spec(rounds={"min_clients": 1, "selection_wait_s": 0}))
    await engine.prepared(job.id, a_prepared())
    assert (await engine.round(job.id, 1)).phase is Phase.SELECTION
    await federation.enrol("a")
    assert await engine.next_task("a") is None


async def test_a_client_that_works_for_one_job_is_not_chosen_for_another(
    federation: Federation, engine: Engine
) -> None:
    first = await federation.running()
    second, _ = await engine.create(a_spec())
    await engine.prepared(second.id, a_prepared())
    await federation.enrol("c")
    federation.clock.now += 10
    await engine.tick_all()
    reason = (await engine.round(second.id, 1)).reason
    assert reason == "waiting: 1 of 2 clients with the data, 2 more are busy with other jobs; 2 do after 5 s"
    assert await engine.report(first, 1, "a", a_receipt()) == "accepted"
    await engine.tick_all()
    assert set((await engine.round(second.id, 1)).participants) == {"a", "c"}


async def test_one_unreadable_job_stops_no_other(federation: Federation, engine: Engine) -> None:
    broken = await federation.running()
    await federation.enrol("a", "b")
    async with Redis.from_url(federation.url) as redis:
        await redis.hset(f"fedgalore:job:{broken}", "document", "{}")
    job, _ = await engine.create(a_spec())
    await engine.tick_all()
    await engine.prepared(job.id, a_prepared())
    await engine.tick_all()
    task = await engine.next_task("a")
    assert task is not None
    assert task.job.id == job.id
    assert [one.id for one in await engine.list()] == [one.id for one in await engine.active_jobs()] == [job.id]
    assert [one.task for one in await engine.agents()] == [OpenTask(job.id, 1)] * 2
    assert b'fedgalore_jobs{status="RUNNING"} 1.0' in await Metrics(engine).render()
    with pytest.raises(JobUnreadable, match=broken):
        await engine.get(broken)


async def test_a_heartbeat_reads_the_job_only_where_there_is_something_to_tell(
    federation: Federation, engine: Engine
) -> None:
    job_id = await federation.running()
    async with Redis.from_url(federation.url) as redis:
        document = await redis.hget(f"fedgalore:job:{job_id}", "document")
        await redis.hset(f"fedgalore:job:{job_id}", "document", "{}")
        assert await engine.progress(job_id, 1, "a", "train", 3, 0.5) == (True, "")
        await redis.hset(f"fedgalore:job:{job_id}", "document", document)
    assert (await engine.progress(job_id, 2, "a", "train", 3, 0.5))[0] is False
    await engine.report(job_id, 1, "a", a_receipt())
    assert await engine.progress(job_id, 1, "a", "upload", 3, 0.5) == (True, "")  # its report is in, the round goes on
    await engine.cancel(job_id)
    assert (await engine.progress(job_id, 1, "b", "train", 3, 0.5))[0] is False


async def test_what_clients_say_is_kept_short(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    for metrics, words in (
        ({f"m{number}": 0.0 for number in range(101)}, "metrics: has 101 entries"),
        ({"m" * 201: 0.0}, "metrics.m+: the name has 201 characters"),
    ):
        with pytest.raises(InvalidUpdate, match=words):
            await engine.report(job_id, 1, "a", UpdateReceipt(a_blob(), 1, metrics, 0.0))
        with pytest.raises(InvalidUpdate, match=f"evaluation.{words}"):
            await engine.evaluated(job_id, 1, "a", EvaluationResult(0, 1, metrics))
    await engine.client_failed(job_id, 1, "a", "no " * 100_000)
    failure = (await engine.round(job_id, 1)).participants["a"].failure
    assert failure is not None
    assert (len(failure), failure[-1]) == (2000, "…")


async def test_agents_are_present_while_they_give_signs_of_life(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    await federation.enrol("c", data="other")
    federation.clock.now += 20
    await engine.touch("b")
    federation.clock.now += 20
    assert [(one.name, one.present) for one in await engine.agents()] == [("a", False), ("b", True), ("c", False)]
    await engine.touch("c")
    job, _ = await engine.create(a_spec(rounds={"min_clients": 1, "selection_wait_s": 0}))
    await engine.prepared(job.id, a_prepared())
    current = await engine.round(job.id, 1)
    assert set(current.participants) == {"b"}  # a is gone, c has other data
    agents = {one.name: one.task for one in await engine.agents()}
    assert agents == {"a": None, "b": OpenTask(job.id, 1), "c": None}


async def test_a_restarted_agent_gets_its_task_again(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    first = await engine.next_task("a")
    federation.clock.now += 10
    await federation.enrol("a")
    again = await federation.another().next_task("a")
    assert first is not None
    assert again is not None
    assert (again.job.id, again.round.number, again.remaining_s) == (job_id, first.round.number, 50.0)
    assert again.round.participants["a"].taken_at == federation.clock.now - 10  # noted once
    federation.clock.now += 60
    assert await engine.next_task("a") is None  # too late to begin


async def test_reporting_twice_is_a_duplicate_also_after_the_round(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    assert await engine.receipt(job_id, 1, "a") is None
    assert await engine.report(job_id, 1, "a", a_receipt("mine")) == "accepted"
    assert await engine.report(job_id, 1, "a", a_receipt("mine")) == "duplicate"
    assert await engine.report(job_id, 1, "a", a_receipt("other")) == "duplicate"
    await federation.committed(job_id)
    assert (await engine.get(job_id)).round is not None  # the next one is open already
    assert await engine.report(job_id, 1, "a", a_receipt("mine")) == "duplicate"
    assert await engine.receipt(job_id, 1, "a") == a_receipt("mine")
    assert await engine.receipt(job_id, 1, "stranger") is None


async def test_late_reports_hear_why(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running(rounds={"goal_clients": 2, "over_selection": 1.5})
    await federation.enrol("c")
    await engine.tick(job_id)
    for client in ("a", "b"):
        await engine.report(job_id, 1, client, a_receipt(client))
    with pytest.raises(RoundClosed, match="round 1 is closed"):
        await engine.open_round(job_id, 1, "c")
    await federation.committed(job_id)
    for call in (engine.open_round(job_id, 1, "c"), engine.report(job_id, 1, "c", a_receipt())):
        with pytest.raises(RoundClosed, match="COMMITTED: version 1 from 2 updates"):
            await call
    assert await engine.progress(job_id, 1, "c", "train", 3, 0.5) == (
        False,
        "round 1 is closed (COMMITTED: version 1 from 2 updates); ask for the next task",
    )


async def test_only_participants_report(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await federation.enrol("z")
    for call in (engine.open_round(job_id, 1, "z"), engine.report(job_id, 1, "z", a_receipt())):
        with pytest.raises(NotParticipant, match="'z' was not selected into round 1"):
            await call
    assert (await engine.open_round(job_id, 1, "a")).id == job_id


async def test_numbers_that_are_none_are_refused_and_change_nothing(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    before = await engine.get(job_id)
    nan = float("nan")
    for call in (
        engine.report(job_id, 1, "a", UpdateReceipt(a_blob(), 1, {"train_loss": nan}, 0.0)),
        engine.evaluated(job_id, 1, "a", EvaluationResult(0, 1, {"loss": float("inf")})),
        engine.aggregated(job_id, 1, a_version(1), {}, {"joint_rank": nan}),
    ):
        with pytest.raises(InvalidUpdate, match="not a finite number"):
            await call
    assert await engine.get(job_id) == before


async def test_progress_and_traffic(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    assert await engine.progress(job_id, 1, "a", "train", 3, 0.5) == (True, "")
    assert await engine.progress(job_id, 1, "b", "train", 1, float("nan")) == (True, "")
    said = await engine.live_progress(job_id)
    assert said["a"] == {"round": 1, "stage": "train", "step": 3, "train_loss": 0.5, "at": federation.clock.now}
    assert said["b"]["train_loss"] is None
    go_on, reason = await engine.progress("job-x", 1, "a", "train", 1, 0.5)
    assert (go_on, "does not exist" in reason) == (False, True)
    await engine.count_traffic(job_id, 1, "a", "up", 10)
    await engine.count_traffic(job_id, 1, "a", "up", 5)
    assert await engine.traffic(job_id) == {1: {"a": {"up": 15, "down": 0}}}


async def test_a_round_past_its_deadline_is_ended_by_a_tick(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.report(job_id, 1, "a", a_receipt())
    federation.clock.now += 61
    await federation.enrol("a", "b")
    await engine.tick_all()
    first, second = await engine.rounds(job_id)
    assert first.phase is Phase.ABANDONED
    assert "the deadline passed with 1 of at least 2 reports" in first.reason
    assert (second.number, second.phase, second.model_version) == (2, Phase.CONFIGURATION, 0)
    assert "round 1 abandoned" in (await engine.get(job_id)).reason


async def test_failures_pause_the_job_in_the_end(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    for number in (1, 2, 3):
        await engine.client_failed(job_id, number, "a", "no memory")
    job = await engine.get(job_id)
    assert job.status is Status.PAUSED
    assert "a: no memory" in job.reason
    assert (await engine.resume(job_id)).status is Status.RUNNING
    assert (await engine.round(job_id, 4)).phase is Phase.CONFIGURATION


async def test_pause_resume_cancel(federation: Federation, engine: Engine) -> None:
    job, _ = await engine.create(a_spec())
    with pytest.raises(IllegalTransition, match="PENDING"):
        await engine.pause(job.id)
    job_id = await federation.running()
    assert (await engine.pause(job_id)).status is Status.PAUSED
    await federation.committed(job_id)
    await engine.tick(job_id)
    assert (await engine.get(job_id)).round is None
    await engine.resume(job_id)
    assert (await engine.get(job_id)).round is not None
    assert (await engine.cancel(job_id)).status is Status.CANCELLED
    with pytest.raises(RoundClosed, match="the job was cancelled"):
        await engine.report(job_id, 2, "a", a_receipt())
    with pytest.raises(RoundClosed):
        await engine.aggregated(job_id, 2, a_version(2), {}, {})
    assert (await engine.cancel(job_id)).status is Status.CANCELLED  # asked again
    with pytest.raises(IllegalTransition):
        await engine.resume(job_id)
    assert await engine.next_task("a") is None


async def test_the_aggregator_may_tell_everything_twice(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.prepared(job_id, a_prepared())
    await federation.committed(job_id)
    before = await engine.get(job_id)
    again = await engine.aggregated(job_id, 1, a_version(1), {"other": 1.0}, {})
    assert (again.model, again.round, again.rounds_opened) == (before.model, before.round, 2)
    with pytest.raises(RoundClosed):
        await engine.aggregation_failed(job_id, 1, "late")
    job, _ = await engine.create(a_spec())
    assert (await engine.preparation_failed(job.id, "model.source: no such folder")).status is Status.FAILED


async def test_the_last_evaluation_asks_everybody_with_the_data(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running(rounds={"count": 1})
    await federation.enrol("c", "d")
    await federation.committed(job_id)
    current = await engine.round(job_id, 2)
    assert (current.kind, set(current.participants)) == ("evaluate", {"a", "b", "c", "d"})
    for client in "abc":
        await engine.evaluated(job_id, 2, client, a_result(1))
    federation.clock.now += 61
    await engine.tick(job_id)
    assert (await engine.get(job_id)).status is Status.COMPLETED


async def test_a_forgotten_agent_gives_its_task_back(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.forget_agent("a")
    assert (await engine.round(job_id, 1)).reason.endswith("a: removed by the operator")
    assert [one.name for one in await engine.agents()] == ["b"]
    with pytest.raises(UnknownClient):
        await engine.next_task("a")


async def test_a_long_poll_sees_work_made_by_another_process(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    other = federation.another()
    waiting = [asyncio.create_task(other.next_task(client, wait_s=10)) for client in "ab"]
    await asyncio.sleep(0.1)
    job, _ = await engine.create(a_spec())
    await engine.prepared(job.id, a_prepared())
    async with asyncio.timeout(3):
        tasks = await asyncio.gather(*waiting)
    assert [task.job.id for task in tasks if task] == [job.id, job.id]
    assert await other.next_task("a", wait_s=0.05) is not None


async def test_events_are_followed_from_where_one_stopped(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    rows = await engine.events(job_id)
    last = rows[-1][0]
    assert await engine.events(job_id, after=rows[0][0]) == rows[1:]
    assert await engine.events(job_id, after="no id") == rows
    assert await engine.events(job_id, after=last, block_s=0.05) == []
    waiting = asyncio.create_task(federation.another().events(job_id, after=last, block_s=10))
    await asyncio.sleep(0.1)
    await engine.report(job_id, 1, "a", a_receipt())
    async with asyncio.timeout(3):
        assert [kind for _, kind, _ in await waiting] == ["client.task", "client.report", "round.phase"]


async def test_many_writers_lose_nothing(federation: Federation, engine: Engine) -> None:
    clients = [f"client-{i:02d}" for i in range(24)]
    await federation.enrol(*clients)
    job, _ = await engine.create(a_spec(rounds={"count": 1, "min_clients": len(clients)}))
    engines = [engine, federation.another(), federation.another()]
    await asyncio.gather(engine.prepared(job.id, a_prepared()), *(each.tick(job.id) for each in engines))
    await engine.tick(job.id)

    async def take_part(client: str, door: Engine) -> None:
        assert await door.next_task(client) is not None
        assert await door.report(job.id, 1, client, a_receipt(client)) == "accepted"

    doors = [engines[i % len(engines)] for i in range(len(clients))]
    ticking = [each.tick_all() for each in engines]
    await asyncio.gather(*map(take_part, clients, doors), *ticking)
    current = await engine.round(job.id, 1)
    assert (current.phase, current.reports) == (Phase.AGGREGATION, len(clients))
    assert {client: one.receipt for client, one in current.participants.items()} == {
        client: a_receipt(client) for client in clients
    }
    told = [kind for _, kind, _ in await engine.events(job.id)]
    assert told.count("client.report") == told.count("client.task") == len(clients)
    outcomes = await asyncio.gather(*(each.aggregated(job.id, 1, a_version(1), {}, {}) for each in engines))
    assert {outcome.rounds_opened for outcome in outcomes} <= {1, 2}
    assert len(await engine.rounds(job.id)) == 2


async def test_a_store_that_is_away_is_a_domain_error() -> None:
    engine = Engine(RedisStateStore(f"redis://127.0.0.1:{free_port()}/0"))
    for call in (engine.check(), engine.create(a_spec()), engine.list(), engine.next_task("a"), engine.tick_all()):
        with pytest.raises(StateUnavailable):
            await call
    assert await engine.wait_for_change(0.05) is False
    await engine.close()


async def test_no_more_jobs_and_clients_than_the_limits(redis_url: str) -> None:
    engine = Engine(RedisStateStore(redis_url), max_agents=2, max_jobs=2)
    try:
        for client in ("a", "b", "a"):  # one that is known is always welcome
            await engine.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
        with pytest.raises(TooMany, match="2 are enrolled.*FEDGALORE_MAX_AGENTS"):
            await engine.register("c", PROTOCOL_VERSION, "0.1", {"reviews": 20})
        with pytest.raises(TooMany, match="FEDGALORE_MAX_AGENTS"):
            await engine.expect("c")
        await engine.forget_agent("a")
        await engine.expect("c")
        jobs = [(await engine.create(a_spec(), key))[0] for key in ("one", "two")]
        with pytest.raises(TooMany, match="2 jobs are active.*FEDGALORE_MAX_JOBS"):
            await engine.create(a_spec(), "three")
        assert (await engine.create(a_spec(), "two")) == (jobs[1], False)  # asked again, it was made already
        await engine.cancel(jobs[0].id)
        assert (await engine.create(a_spec(), "three"))[1]
    finally:
        await engine.close()


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_ends_no_round_and_holds_none_up(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    engine = Engine(RedisStateStore(redis_url))
    try:
        for client in "ab":
            await engine.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
        job = (await engine.create(a_spec()))[0]
        await engine.prepared(job.id, a_prepared())
        before = (await engine.round(job.id, 1)).remaining_s(engine.now())
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + jump_s)
        await engine.tick_all()
        flying = await engine.round(job.id, 1)
        assert flying.phase is Phase.CONFIGURATION
        assert before - 30 < flying.remaining_s(engine.now()) <= before
        assert all(agent.present for agent in await engine.agents())
    finally:
        await engine.close()
