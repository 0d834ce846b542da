"""What an agent may do: it registers, takes its task, and reports once."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from coordinator.engine.assembly import Engine
from coordinator.state.errors import (
    InvalidAgent,
    InvalidUpdate,
    NameTaken,
    NotParticipant,
    ProtocolMismatch,
    RoundClosed,
    UnknownClient,
)
from coordinator.state.records import NOBODY, AgentRecord, Instance
from coordinator.state.round_state import EvaluationResult, Phase, UpdateReceipt
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION, version
from tests.builders import a_blob, a_prepared, a_receipt, a_spec, a_version
from tests.coordinator.engine.federation import Federation
from tests.looking import receipt_of, round_of, traffic_of
from tests.sites import all_fit


async def test_registration_refuses_invalid_agents(engine: Engine) -> None:
    with pytest.raises(ProtocolMismatch, match=f"speaks {PROTOCOL_VERSION + 1} .* {PROTOCOL_VERSION}; upgrade the coo"):
        await engine.agents.register("a", PROTOCOL_VERSION + 1, "9", {"reviews": 1})
    with pytest.raises(ProtocolMismatch, match="upgrade the agent"):
        await engine.agents.register("a", PROTOCOL_VERSION - 1, "0", {"reviews": 1})
    with pytest.raises(InvalidAgent, match=r"client: 'a/b' cannot be a name"):
        await engine.agents.register("a/b", PROTOCOL_VERSION, "0.1", {})
    with pytest.raises(InvalidAgent, match=r"datasets\.reviews: has no training examples"):
        await engine.agents.register("a", PROTOCOL_VERSION, "0.1", {"reviews": 0})
    with pytest.raises(InvalidAgent, match="datasets: has 1001 entries"):
        await engine.agents.register("a", PROTOCOL_VERSION, "0.1", {f"d{number}": 1 for number in range(1001)})
    assert await engine.reader.agents() == []


RELEASES = [  # newest and oldest protocol version of an agent and of the coordinator, what they speak, whom to upgrade
    ((4, 0), (4, 4), 4, ""),
    ((5, 4), (4, 4), 4, ""),  # an agent of the next release
    ((4, 4), (5, 4), 4, ""),  # an agent of the release before
    ((4, 0), (5, 4), 4, ""),
    ((5, 4), (5, 4), 5, ""),
    ((6, 5), (4, 4), None, "speaks 5 to 6 and the coordinator speaks 4; upgrade the coordinator"),
    ((4, 3), (6, 5), None, "speaks 3 to 4 and the coordinator speaks 5 to 6; upgrade the agent"),
]


@pytest.mark.parametrize(("agent", "coordinator", "common", "words"), RELEASES)
async def test_releases_speak_the_newest_version_in_common_or_say_whom_to_upgrade(
    federation: Federation,
    agent: tuple[int, int],
    coordinator: tuple[int, int],
    common: int | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register, other = federation.engine.agents.register, federation.another()
    monkeypatch.setattr(version, "PROTOCOL_VERSION", coordinator[0])
    monkeypatch.setattr(version, "OLDEST_PROTOCOL_VERSION", coordinator[1])
    args = ("a", agent[0], "9", {"reviews": 20}, NOBODY, agent[1])
    if common is None:
        with pytest.raises(ProtocolMismatch, match=words):
            await register(*args)
        return
    assert await register(*args) == common
    for newest, oldest in (coordinator, (4, 4)):  # at a replica of the same release, and of the one before
        monkeypatch.setattr(version, "PROTOCOL_VERSION", newest)
        monkeypatch.setattr(version, "OLDEST_PROTOCOL_VERSION", oldest)
        assert await other.agents.next_task("a") is None  # it is known there, and need not register anew


async def test_who_registered_with_another_protocol_version_has_to_do_it_again(
    federation: Federation, engine: Engine
) -> None:
    """This happens when the coordinator is upgraded while the agent runs on."""
    store = RedisStateStore(federation.url)
    old = AgentRecord("a", {"reviews": 20}, "0.0", federation.clock.now, PROTOCOL_VERSION - 1)
    await store.agents.register(old, federation.clock.now)
    await store.close()
    with pytest.raises(UnknownClient, match="register first"):
        await engine.agents.next_task("a")
    job, _ = await engine.people.create(a_spec(rounds={"min_clients": 1, "selection_wait_s": 0}))
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    assert (await round_of(engine, job.id, 1)).phase is Phase.SELECTION
    await federation.enrol("a")
    assert await engine.agents.next_task("a") is None


async def test_a_heartbeat_reads_the_job_only_where_there_is_something_to_tell(
    federation: Federation, engine: Engine
) -> None:
    job_id = await federation.running()
    async with Redis.from_url(federation.url) as redis:
        document = await redis.hget(f"fedgalore:job:{job_id}", "document")
        await redis.hset(f"fedgalore:job:{job_id}", "document", "{}")
        assert await engine.agents.progress(job_id, 1, "a", "train", 3, 0.5) == (True, "")
        await redis.hset(f"fedgalore:job:{job_id}", "document", document)
    assert (await engine.agents.progress(job_id, 2, "a", "train", 3, 0.5))[0] is False
    await engine.agents.report(job_id, 1, "a", a_receipt())
    assert await engine.agents.progress(job_id, 1, "a", "upload", 3, 0.5) == (
        True,
        "",
    )  # its report is in, the round goes on
    await engine.people.cancel(job_id)
    assert (await engine.agents.progress(job_id, 1, "b", "train", 3, 0.5))[0] is False


async def test_what_clients_say_is_kept_short(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    for metrics, words in (
        ({f"m{number}": 0.0 for number in range(101)}, "metrics: has 101 entries"),
        ({"m" * 201: 0.0}, "metrics.m+: cannot be the name of a metric"),
    ):
        with pytest.raises(InvalidUpdate, match=words):
            await engine.agents.report(job_id, 1, "a", UpdateReceipt(a_blob(), 1, metrics))
        with pytest.raises(InvalidUpdate, match=f"evaluation.{words}"):
            await engine.agents.evaluated(job_id, 1, "a", EvaluationResult(0, 1, metrics))
    await engine.agents.client_failed(job_id, 1, "a", "no " * 100_000)
    failure = (await round_of(engine, job_id, 1)).participants["a"].failure
    assert failure is not None
    assert (len(failure), failure[-1]) == (2000, "…")


async def test_a_restarted_agent_gets_its_task_again(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    first = await engine.agents.next_task("a")
    federation.clock.now += 10
    await federation.enrol("a")
    again = await federation.another().agents.next_task("a")
    assert first is not None
    assert again is not None
    assert (again.job.id, again.round.number, again.remaining_s) == (job_id, first.round.number, 50.0)
    assert again.round.participants["a"].taken_at == federation.clock.now - 10  # the first time stays
    federation.clock.now += 60
    assert await engine.agents.next_task("a") is None  # too late to begin


async def test_reporting_twice_is_a_duplicate_also_after_the_round(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    assert await receipt_of(engine, job_id, 1, "a") is None
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("mine"))).outcome == "accepted"
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("mine"))).outcome == "duplicate"
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("other"))).outcome == "duplicate"
    await federation.committed(job_id)
    assert (await engine.reader.job(job_id)).round is not None  # the next round is open already
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("mine"))).outcome == "duplicate"
    assert await receipt_of(engine, job_id, 1, "a") == a_receipt("mine")
    assert await receipt_of(engine, job_id, 1, "stranger") is None


async def test_reports_that_come_at_once_are_saved_together_and_each_is_answered(
    federation: Federation, engine: Engine
) -> None:
    clients = [f"c{number:02}" for number in range(20)]
    await federation.enrol(*clients)
    job, _ = await engine.people.create(a_spec(rounds={"min_clients": 20}))
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    before = (await federation.saves(job.id), await engine.reader.events(await engine.reader.job(job.id)))
    said = [*clients, "stranger", clients[0]]
    await federation.enrol("stranger")
    answers = await asyncio.gather(
        *(engine.agents.report(job.id, 1, client, a_receipt(client)) for client in said), return_exceptions=True
    )
    assert [getattr(each, "outcome", type(each)) for each in answers] == ["accepted"] * 20 + [
        NotParticipant,
        "duplicate",
    ]
    after = await engine.reader.job(job.id)
    assert after.round is not None
    assert after.round.phase is Phase.AGGREGATION
    assert set(after.round.receipts) == set(clients)
    rows = (await engine.reader.events(after))[len(before[1]) :]
    assert sorted(data["client"] for _, kind, data in rows if kind == "client.report") == clients
    assert await federation.saves(job.id) - before[0] < 10


async def test_late_reports_hear_why(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running(rounds={"goal_clients": 2, "over_selection": 1.5})
    await federation.enrol("c")
    await engine.driver.tick_all()
    for client in ("a", "b"):
        await engine.agents.report(job_id, 1, client, a_receipt(client))
    with pytest.raises(RoundClosed, match="round 1 is closed"):
        await engine.agents.check_open(job_id, 1, "c")
    await federation.committed(job_id)
    for call in (engine.agents.check_open(job_id, 1, "c"), engine.agents.report(job_id, 1, "c", a_receipt())):
        with pytest.raises(RoundClosed, match="COMMITTED: version 1 from 2 updates"):
            await call
    assert await engine.agents.progress(job_id, 1, "c", "train", 3, 0.5) == (
        False,
        "round 1 is closed (COMMITTED: version 1 from 2 updates); ask for the next task",
    )


async def test_only_participants_report(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await federation.enrol("z")
    for call in (engine.agents.check_open(job_id, 1, "z"), engine.agents.report(job_id, 1, "z", a_receipt())):
        with pytest.raises(NotParticipant, match="'z' was not selected into round 1"):
            await call
    assert (await engine.agents.check_open(job_id, 1, "a")).id == job_id


async def test_numbers_that_are_none_are_refused_and_change_nothing(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    before = await engine.reader.job(job_id)
    nan = float("nan")
    for call in (
        engine.agents.report(job_id, 1, "a", UpdateReceipt(a_blob(), 1, {"train_loss": nan})),
        engine.agents.evaluated(job_id, 1, "a", EvaluationResult(0, 1, {"loss": float("inf")})),
        engine.agents.evaluated(job_id, 1, "a", EvaluationResult(0, 1, {"loss": 1.0}, {"loss": (1.0, nan)})),
        engine.aggregator.aggregated(job_id, 1, a_version(1), {}, {"joint_rank": nan}),
    ):
        with pytest.raises(InvalidUpdate, match="not a finite number"):
            await call
    assert await engine.reader.job(job_id) == before


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "holds nothing; this job measures loss, accuracy"),
        ({"loss": (1.0, 1.0)}, "holds loss; this job measures loss, accuracy"),
        ({"loss": (1.0, 1.0), "accuracy": (1.0, 1.0, 1.0)}, "accuracy: 3 numbers do not fit this job's classes"),
        ({"loss": (0.0,) * 300_000}, "has 300000 numbers; send at most 262144"),
    ],
)
async def test_counts_that_could_not_be_summed_are_refused(
    federation: Federation, engine: Engine, counts: dict[str, tuple[float, ...]], words: str
) -> None:
    job_id = await federation.running()
    with pytest.raises(InvalidUpdate, match=f"evaluation.counts.*{words}"):
        await engine.agents.evaluated(job_id, 1, "a", EvaluationResult(0, 1, {"loss": 1.0}, counts))


async def test_progress_and_traffic(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    assert await engine.agents.progress(job_id, 1, "a", "train", 3, 0.5) == (True, "")
    assert await engine.agents.progress(job_id, 1, "b", "train", 1, float("nan")) == (True, "")
    said = await engine.reader.live_progress(job_id)
    assert said["a"] == {"round": 1, "stage": "train", "step": 3, "train_loss": 0.5, "at": federation.clock.now}
    assert said["b"]["train_loss"] is None
    go_on, reason = await engine.agents.progress("job-x", 1, "a", "train", 1, 0.5)
    assert (go_on, "does not exist" in reason) == (False, True)
    await engine.agents.count_traffic(job_id, 1, "a", "up", 10)
    await engine.agents.count_traffic(job_id, 1, "a", "up", 5)
    assert await traffic_of(engine, job_id) == {1: {"a": {"up": 15, "down": 0}}}


async def test_a_long_poll_sees_work_that_another_process_created(federation: Federation, engine: Engine) -> None:
    await federation.enrol("a", "b")
    other = federation.another()
    waiting = [asyncio.create_task(other.agents.next_task(client, wait_s=10)) for client in "ab"]
    await asyncio.sleep(0.1)
    job, _ = await engine.people.create(a_spec())
    await all_fit(engine)
    await engine.aggregator.prepared(job.id, a_prepared())
    async with asyncio.timeout(3):
        tasks = await asyncio.gather(*waiting)
    assert [task.job.id for task in tasks if task] == [job.id, job.id]
    assert await other.agents.next_task("a", wait_s=0.05) is not None


async def test_a_name_belongs_to_one_agent_while_it_is_present(federation: Federation, engine: Engine) -> None:
    async def registers(folder: str, process: str = "p") -> None:
        await engine.agents.register("a", PROTOCOL_VERSION, "0.1", {"reviews": 1}, Instance(folder, process))

    await registers("one")
    federation.clock.now += 20
    for call in (registers("two"), engine.agents.check_free("a", Instance("two", "p"))):
        with pytest.raises(NameTaken, match="seen 20 s ago; give this agent a name of its own, or stop the other: its"):
            await call
    await registers("one", "restarted")
    await engine.agents.check_instance("a", Instance("one", "restarted"))
    for other in (Instance("one", "p"), Instance("two", "p")):
        with pytest.raises(NameTaken, match="another agent has registered as 'a' after this one"):
            await engine.agents.check_instance("a", other)
    federation.clock.now += 31
    await registers("two")
    with pytest.raises(NameTaken):
        await engine.agents.check_instance("a", Instance("one", "restarted"))
    await engine.people.forget_agent("a")
    await registers("three")
    assert [agent.name for agent in await engine.reader.agents()] == ["a"]
