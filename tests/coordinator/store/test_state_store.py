"""The store's contract, on a real server: which steps are atomic, which errors are named, what a lost server causes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis
from structlog.testing import capture_logs

from coordinator.state import job as jobs
from coordinator.state.errors import JobUnreadable, StateUnavailable
from coordinator.state.job_events import AggregationFailed, Cancel, InRound, JobEvent, Pause, PreparedModel, Resume
from coordinator.state.job_filter import JobFilter
from coordinator.state.job_state import Job, Status
from coordinator.state.records import AgentRecord, Waiting
from coordinator.state.round_state import Candidates, Effect, Participant, Phase, Reported, Round, Tick
from coordinator.state.setbacks import TRIES_UNTIL_PAUSE
from coordinator.state.totals import Totals
from coordinator.store import redis_job_list
from coordinator.store.redis_agent_store import Contact
from coordinator.store.redis_job_list import RedisJobList
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.writes import Change, Fence, VersionedJob
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.redis_server import RedisServer, free_port
from tests.builders import a_job, a_prepared, a_receipt


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStateStore]:
    store = RedisStateStore(redis_url)
    yield store
    await store.close()


def job(name: str, at: float = 0.0, key: str | None = None) -> Job:
    return replace(a_job(at), id=name, idempotency_key=key)


async def step(store: RedisStateStore, job_id: str, event: JobEvent, now: float = 1.0) -> Change:
    """Advances and saves the job as the engine does."""
    stored = await store.load(job_id)
    assert stored is not None
    done = jobs.advance(stored.job, event, now)
    change = Change(stored, done.job, [("step", {"event": type(event).__name__})], done.effects, done.closed)
    assert await store.save(change) == "saved"
    return change


async def in_configuration(store: RedisStateStore, name: str = "one") -> None:
    await store.create(job(name), [])
    for event in (PreparedModel(a_prepared()), Tick(), InRound(1, Candidates(("a", "b")))):
        await step(store, name, event)


async def test_a_job_is_kept_with_its_version(store: RedisStateStore) -> None:
    assert await store.load("one") is None
    assert await store.create(job("one"), [("created", {"by": "test"})]) == ("created", "one")
    assert await store.load("one") == VersionedJob(job("one"), 1)
    change = await step(store, "one", PreparedModel(a_prepared()))
    assert await store.load("one") == VersionedJob(change.after, 2)
    assert [row[1:] for row in await store.events("one", "0", 10)] == [
        ("created", {"by": "test"}),
        ("step", {"event": "PreparedModel"}),
    ]


async def test_a_redis_that_went_back_in_time_is_noticed(store: RedisStateStore) -> None:
    await in_configuration(store)
    key = store.connection.job("one")
    before = await store.connection.redis.hgetall(key)
    await step(store, "one", Pause())
    await store.connection.redis.hset(key, mapping=before)
    with capture_logs() as lines:
        assert (await store.load("one")).version == int(before["version"])
        assert await store.load("one") is not None
    assert [(line["event"], line["job"]) for line in lines] == [("state_went_back", "one")]
    assert "lost the last 1 saves" in lines[0]["reason"]


async def test_a_stale_save_writes_nothing_at_all(store: RedisStateStore) -> None:
    await in_configuration(store)
    await store.agents.register(AgentRecord("a", {}, "1", 0.0, PROTOCOL_VERSION), 0.0)
    stored = await store.load("one")
    assert stored is not None
    done = jobs.advance(stored.job, Cancel(), 1.0)
    late = Change(VersionedJob(stored.job, stored.version - 1), done.job, [("step", {})], done.effects, done.closed)
    stale = await store.events("one", "0", 10)
    assert await store.save(late) == "stale"
    assert await store.load("one") == stored
    assert await store.events("one", "0", 10) == stale
    assert await store.closed_rounds("one") == []
    assert await store.active_ids() == ["one"]
    assert (await store.agents.touch("a", 1.0)).waiting == Waiting(["one"], [])


async def test_closing_a_round_archives_it_and_takes_the_tasks_back(store: RedisStateStore) -> None:
    await in_configuration(store)
    for name in "ab":
        await store.agents.register(AgentRecord(name, {"reviews": 3}, "1", 0.0, PROTOCOL_VERSION), 0.0)
        assert (await store.agents.touch(name, 1.0)).waiting == Waiting(["one"], [])
    await store.beside.set_progress("one", "a", {"step": 3})
    await step(store, "one", InRound(1, Reported("a", a_receipt())))
    assert (await store.agents.touch("a", 1.0)).waiting == Waiting([], [])
    assert (await store.agents.touch("b", 1.0)).waiting == Waiting(["one"], [])
    change = await step(store, "one", Cancel())
    assert change.closed is not None
    assert change.closed.phase is Phase.ABANDONED
    assert await store.closed_rounds("one") == [change.closed]
    assert await store.closed_round("one", 1) == change.closed
    assert await store.closed_round("one", 2) is None
    assert (await store.agents.touch("b", 1.0)).waiting == Waiting([], [])
    assert await store.active_ids() == []
    assert await store.beside.progress("one") == {}


async def test_the_number_of_the_round_in_flight_is_known_without_the_job(store: RedisStateStore) -> None:
    await store.create(job("one"), [])
    assert await store.round_in_flight("one") is None
    for number in (1, 2):
        for event in (*[PreparedModel(a_prepared())][number - 1 :], Tick()):
            await step(store, "one", event, now=100.0 * number)
        assert await store.round_in_flight("one") == number
        await step(store, "one", AggregationFailed(number, "x"), now=number)
        assert await store.round_in_flight("one") is None


async def test_attempts_are_counted_until_they_are_done_or_their_round_is_closed(store: RedisStateStore) -> None:
    await in_configuration(store)
    assert [await store.beside.begin_attempt("one", piece) for piece in ("round 1", "prepare", "round 1")] == [1, 1, 2]
    await store.beside.forget_attempts("one", "prepare")
    assert [await store.beside.begin_attempt("one", piece) for piece in ("round 1", "prepare")] == [3, 1]
    assert await store.beside.begin_attempt("one", "round 1", 1) == 4
    await step(store, "one", AggregationFailed(1, "x"))
    assert await store.beside.begin_attempt("one", "round 1", 1) == 0  # a process that wakes counts nothing
    assert await store.beside.begin_attempt("one", "round 2") == 1
    await step(store, "one", Cancel())
    assert await store.beside.begin_attempt("one", "prepare") == 0
    assert await store.beside.begin_attempt("no such job", "prepare") == 0


async def test_an_attempt_under_a_lease_that_is_over_is_not_counted(store: RedisStateStore) -> None:
    await in_configuration(store)
    token = await store.take_lease("aggregator", "me", 10)
    assert token is not None
    assert await store.beside.begin_attempt("one", "round 1", 1, Fence("aggregator", token)) == 1
    assert await store.beside.begin_attempt("one", "round 1", 1, Fence("aggregator", token - 1)) == "fenced"
    assert await store.beside.begin_attempt("one", "round 1", 1, Fence("aggregator", token)) == 2


async def test_a_client_is_busy_while_a_round_waits_for_it(store: RedisStateStore) -> None:
    assert await store.agents.busy([]) == set()
    await in_configuration(store)
    assert await store.agents.busy(["a", "b", "c"]) == {"a", "b"}
    await step(store, "one", InRound(1, Reported("a", a_receipt())))
    assert await store.agents.busy(["a", "b", "c"]) == {"b"}


async def test_an_unreadable_document_hides_no_other_and_keeps_no_client(
    store: RedisStateStore, redis_url: str
) -> None:
    await in_configuration(store)
    await store.create(job("two", at=1.0), [])
    async with Redis.from_url(redis_url) as redis:
        await redis.hset("fedgalore:job:one", "document", '{"half": ')
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            assert [each.id for each in await store.load_many(["one", "two"])] == ["two"]
            with pytest.raises(JobUnreadable, match="document of job one"):
                await store.load("one")
    assert [line["job"] for line in logs] == ["one"]  # logged once
    assert await store.agents.busy(["a", "b"], store.unreadable) == set()


async def test_rounds_come_in_order_of_their_number(store: RedisStateStore) -> None:
    await store.create(job("one"), [])
    await step(store, "one", PreparedModel(a_prepared()))
    for number in range(1, 13):
        await step(store, "one", Tick(), now=100.0 * number)
        await step(store, "one", AggregationFailed(number, "x"), now=100.0 * number)
        if number % TRIES_UNTIL_PAUSE == 0:
            await step(store, "one", Resume())
    assert [each.number for each in await store.closed_rounds("one")] == list(range(1, 13))


async def test_an_idempotency_key_creates_a_single_job(store: RedisStateStore) -> None:
    assert await store.create(job("one", key="k"), []) == ("created", "one")
    assert await store.create(job("two", key="k"), []) == ("exists", "one")
    assert await store.create(job("three", key="other"), []) == ("created", "three")
    assert await store.load("two") is None


async def test_creating_is_safe_to_send_twice(store: RedisStateStore) -> None:
    """The client library does so when the answer was lost; the job may have moved on by then."""
    await store.create(job("one", key="k"), [("created", {})])
    await step(store, "one", PreparedModel(a_prepared()))
    assert await store.create(job("one", key="k"), [("created", {})]) == ("created", "one")
    stored = await store.load("one")
    assert stored is not None
    assert (stored.job.status, stored.version) == (Status.RUNNING, 2)
    assert len(await store.events("one", "0", 10)) == 2


async def test_jobs_are_paged_newest_first(store: RedisStateStore) -> None:
    for number in (2, 0, 3, 1):
        await store.create(job(f"j{number}", at=float(number)), [])
    assert await store.job_ids(None, 3) == ["j3", "j2", "j1"]
    assert await store.job_ids("j1", 3) == ["j0"]
    assert await store.job_ids("unknown", 3) == []
    assert [each.id for each in await store.load_many(["j2", "unknown", "j0"])] == ["j2", "j0"]


async def test_a_list_that_changes_while_it_is_read_repeats_no_job_and_skips_none(
    store: RedisStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_job_list, "LOOKED_AT", 2)
    for number in range(6):
        await store.create(job(f"j{number}", at=float(number)), [])
    changes = [
        lambda: store.create(job("new", at=9.0), []),
        lambda: store.connection.redis.zrem(store.connection.key("jobs"), "new"),
    ]
    fitting = RedisJobList._fitting

    async def meanwhile(jobs: RedisJobList, listed: list[tuple[str, float]], wanted: JobFilter) -> list[str]:
        if changes:
            await changes.pop(0)()
        return await fitting(jobs, listed, wanted)

    monkeypatch.setattr(RedisJobList, "_fitting", meanwhile)
    assert await store.job_ids(None, 10, JobFilter(name="tiny")) == [f"j{number}" for number in range(5, -1, -1)]


async def test_agents_and_their_signs_of_life(store: RedisStateStore) -> None:
    assert (await store.agents.touch("a", 1.0)).waiting is None
    records = [AgentRecord(name, {"reviews": 3}, "0.1", 5.0, PROTOCOL_VERSION) for name in "ab"]
    for record in reversed(records):
        await store.agents.register(record, 5.0)
    assert (await store.agents.touch("b", 9.0)).waiting == Waiting([], [])
    await store.agents.touch("b", 8.0)  # a clock that lags behind takes nothing back
    assert await store.agents.seen() == [(records[0], 5.0), (records[1], 9.0)]
    assert await store.agents.seen(9.0) == [(records[1], 9.0)]
    assert await store.agents.enrolled("a") == (True, 2)
    assert await store.agents.forget("a") is True
    assert await store.agents.forget("a") is False
    assert await store.agents.enrolled("a") == (False, 1)
    assert (await store.agents.touch("a", 10.0)).waiting is None


async def test_signs_of_life_that_come_at_once_bring_the_job_that_each_speaks_of(store: RedisStateStore) -> None:
    await in_configuration(store)
    await store.create(job("two"), [])
    for name in "ab":
        await store.agents.register(AgentRecord(name, {}, "1", 0.0, PROTOCOL_VERSION), 0.0)
    said = [("a", "one"), ("b", None), ("stranger", "two"), ("b", "gone"), ("b", "one")]
    found = await asyncio.gather(*(store.agents.touch(client, 7.0, job_id) for client, job_id in said))
    assert [each.waiting and each.waiting.tasks for each in found] == [["one"], ["one"], None, ["one"], ["one"]]
    assert [each.record and each.record.name for each in found] == ["a", "b", None, "b", "b"]
    one, two = await store.load("one"), await store.load("two")
    jobs = [store.read(job_id or "", each.stored) for (_, job_id), each in zip(said, found, strict=True)]
    assert jobs == [one, None, two, None, one]
    assert await store.agents.last_seen(["a", "b", "stranger"]) == {"a": 7.0, "b": 7.0, "stranger": 0.0}


async def test_who_registered_with_another_protocol_version_is_not_known(store: RedisStateStore) -> None:
    record = AgentRecord("a", {}, "1", 0.0, PROTOCOL_VERSION - 1)
    await store.agents.register(record, 0.0)
    assert await store.agents.touch("a", 9.0) == Contact(record, None)
    assert [seen for _, seen in await store.agents.seen()] == [0.0]


async def test_a_change_wakes_those_who_wait_for_it_and_nobody_else(store: RedisStateStore) -> None:
    await in_configuration(store)
    await store.wait(5.0)  # subscribed
    topics = (Effect.WAKE_AGGREGATOR, Effect.WAKE_AGENTS)
    waiting = [asyncio.create_task(store.wait(20.0, topic=topic)) for topic in topics]
    await asyncio.sleep(0.05)
    looks, mark = [], store._watcher.mark

    def counted(topic: str = "") -> int:
        looks.append(topic)
        return mark(topic)

    store._watcher.mark = counted  # type: ignore[method-assign]
    await step(store, "one", InRound(1, Reported("a", a_receipt())))
    await step(store, "one", InRound(1, Reported("b", a_receipt())))
    assert await waiting[0]
    assert not waiting[1].done()
    assert Effect.WAKE_AGENTS not in looks
    waiting[1].cancel()


async def test_traffic_adds_up(store: RedisStateStore) -> None:
    await store.create(job("one"), [])
    for direction, n_bytes in (("up", 3), ("up", 4), ("down", 5)):
        await store.beside.add_traffic("one", 10, "a.b-c", direction, n_bytes)
    await store.beside.add_traffic("one", 2, "b", "down", 1)
    rounds = [
        Round(number, "train", 0, Phase.REPORTING, "", 0.0, False, participants=dict.fromkeys(clients, Participant()))
        for number, clients in ((2, ("b",)), (10, ("a.b-c", "silent")))
    ]
    moved = {10: {"a.b-c": {"up": 7, "down": 5}}, 2: {"b": {"up": 0, "down": 1}}}
    assert await store.beside.traffic("one", rounds) == moved
    assert await store.beside.traffic("one", []) == {}
    totals = await store.beside.totals("one")
    assert (totals.up, totals.down, totals.committed) == (7, 6, 0)
    await store.beside.add_traffic("gone", 2, "b", "down", 1)
    assert await store.beside.traffic("gone", rounds) == {}
    assert await store.beside.totals("gone") == Totals()


async def test_prefixes_do_not_see_each_other(store: RedisStateStore, redis_url: str) -> None:
    await store.create(job("one"), [])
    other = RedisStateStore(redis_url, prefix="other")
    assert await other.load("one") is None
    assert await other.job_ids(None, 10) == []
    await other.close()


async def test_a_save_wakes_who_waits_in_another_process(store: RedisStateStore, redis_url: str) -> None:
    other = RedisStateStore(redis_url)  # with separate connections, as in another process
    await store.create(job("one"), [])
    await step(store, "one", PreparedModel(a_prepared()))
    await step(store, "one", Tick())
    assert await other.wait(5.0)  # the subscription itself counts as a change
    agents, all_topics = other.mark(Effect.WAKE_AGENTS), other.mark()
    waiting = asyncio.create_task(other.wait(5.0, topic=Effect.WAKE_AGENTS))
    await step(store, "one", InRound(1, Candidates(("a", "b"))))
    assert await waiting
    assert await other.wait(0.0, since=agents, topic=Effect.WAKE_AGENTS)  # the change came already
    assert await other.wait(0.0, since=all_topics)
    assert not await other.wait(0.05, topic=Effect.WAKE_AGGREGATOR)
    await other.close()


@pytest.mark.slow
async def test_a_server_that_is_gone_is_named_and_comes_back_with_all_data(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    store = RedisStateStore(server.url)
    try:
        await in_configuration(store)
        before = await store.load("one")
        waiting = asyncio.create_task(store.wait(20.0, topic=Effect.WAKE_AGENTS))
        await asyncio.sleep(0.1)
        await store.wait(0.0)
        server.kill()  # like a crash: without a last save
        agents = store.agents
        for call in (store.load("one"), agents.enrolled("a"), agents.touch("a", 1.0), store.create(job("two"), [])):
            with pytest.raises(StateUnavailable, match="redis_url"):
                await call
        server.start()
        assert await store.load("one") == before
        assert await waiting  # the waiter subscribes anew by itself
    finally:
        await store.close()
        server.stop()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://127.0.0.1:{port}/0", "does not answer"),
        (
            "redis+sentinel://127.0.0.1:{port}/fed",
            r"master fed that is up; asked: 127.0.0.1:{port}\)",
        ),
        ("redis+cluster://127.0.0.1:{port}", "no node of the cluster knows a master"),
    ],
)
async def test_a_url_where_nobody_listens(url: str, words: str) -> None:
    port = free_port()
    store = RedisStateStore(url.format(port=port))
    with pytest.raises(StateUnavailable, match=words.format(port=port)):
        await store.agents.enrolled("a")
    await store.close()
