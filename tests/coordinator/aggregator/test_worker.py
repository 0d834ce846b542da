"""Which work the aggregator takes up, and when it gives up. The store is real; the test controls the work."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from coordinator.aggregator import compute as aggregation
from coordinator.aggregator import doing, load_back
from coordinator.aggregator import worker as aggregator
from coordinator.aggregator.process import build
from coordinator.aggregator.worker import Aggregator
from coordinator.engine.assembly import Engine, assemble
from coordinator.settings import load
from coordinator.state.errors import BlobLost
from coordinator.state.job_state import Status
from coordinator.state.round_state import Phase, Round
from coordinator.store.blob_store import BlobsAway
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.maths.bounds import OutOfBounds
from fedgalore.soundness import TooFewLeft
from tests.builders import a_prepared, a_receipt, a_result, a_spec, a_step_on, a_version
from tests.looking import round_of
from tests.sites import all_fit

LONG_S = 20.0


class Work:
    """Replaces work that would take minutes; it blocks until `go` is set."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.done: list[str] = []
        self.error: Exception | None = None
        self.statistics: dict[str, float] = {}
        self.difference: str | None = None

    def _do(self, what: str) -> None:
        self.done.append(what)
        self.begun.release()
        self.go.wait(LONG_S)
        if self.error is not None:
            raise self.error

    def prepare(self, *_: Any) -> Any:
        self._do("prepare")
        return a_prepared()

    def aggregate(self, job: Any, *_: Any) -> aggregation.Aggregated:
        self._do(f"round {job.round.number}")
        return aggregation.StoredVersion(a_version(job.round.model_version + 1), {}, self.statistics)

    def differences(self, *_: Any) -> str | None:
        self._do("load back")
        return self.difference


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    monkeypatch.setattr(load_back, "differences", work.differences)
    monkeypatch.setattr(aggregation, "prepare", work.prepare)
    monkeypatch.setattr(aggregation, "aggregate", work.aggregate)
    monkeypatch.setattr(aggregator, "IDLE_S", 0.02)
    monkeypatch.setattr(doing, "AGAIN_S", 0.02)
    yield work
    work.go.set()


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[Engine]:
    engine = assemble(RedisStateStore(redis_url))
    yield engine
    await engine.close()


class Process:
    """An aggregator that can be stopped or killed."""

    def __init__(self, engine: Engine, tmp_path: Path) -> None:
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(Aggregator(engine.aggregator, DirectoryBlobStore(tmp_path)).run(self.stop))

    async def has_begun(self, work: Work) -> None:
        assert await asyncio.to_thread(work.begun.acquire, timeout=LONG_S)

    async def kill(self) -> None:
        while not self.running.done():  # wait_for of Python 3.11, which redis-py calls, may swallow a cancellation
            self.running.cancel()
            await asyncio.wait([self.running], timeout=0.1)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.running, LONG_S)


async def until(engine: Engine, job_id: str, status: Status) -> str:
    """The job's reason once it has this status."""
    async with asyncio.timeout(LONG_S):
        while (job := await engine.reader.job(job_id)).status is not status:
            await engine.reader.wait_for_change(0.05)
    return job.reason


async def first_round(engine: Engine, job_id: str) -> Round:
    """The job's first round once it is closed."""
    async with asyncio.timeout(LONG_S):
        while not (closed := await round_of(engine, job_id, 1)).phase.is_final:
            await engine.reader.wait_for_change(0.05)
    return closed


async def posted(engine: Engine) -> str:
    return (await engine.people.create(a_spec()))[0].id


async def aggregating(engine: Engine) -> str:
    """A job whose first round has its reports."""
    for client in "ab":
        await engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
    job_id = await posted(engine)
    await all_fit(engine)
    await engine.aggregator.prepared(job_id, a_prepared())
    for client in "ab":
        await engine.agents.report(job_id, 1, client, a_receipt(client))
    assert (await round_of(engine, job_id, 1)).phase is Phase.AGGREGATION
    return job_id


async def ending(engine: Engine, by_cuts: bool = False) -> str:
    """A job whose rounds are over: its final model is to be loaded back, or to be made whole first."""
    job_id = await aggregating(engine)
    for number in (1, 2):
        if number == 2:
            for client in "ab":
                await engine.agents.report(job_id, 2, client, a_receipt(client))
        before = (await engine.reader.job(job_id)).ready().model
        made = a_step_on(before) if by_cuts else a_version(number)
        await engine.aggregator.aggregated(job_id, number, made, {}, {})
    for client in "ab":
        await engine.agents.evaluated(job_id, 3, client, a_result(2))
    return job_id


async def keys_of_attempts(url: str) -> list[str]:
    async with Redis.from_url(url, decode_responses=True) as redis:
        return list(await redis.keys("*:attempts"))


async def test_a_model_that_kills_the_process_fails_its_job_and_no_other(
    engine: Engine, work: Work, tmp_path: Path, redis_url: str
) -> None:
    deadly = await posted(engine)
    for _ in range(3):
        process = Process(engine, tmp_path)
        await process.has_begun(work)
        await process.kill()
    other = await posted(engine)
    work.go.set()
    process = Process(engine, tmp_path)
    reason = await until(engine, deadly, Status.FAILED)
    assert reason == "the aggregator ended 3 times while reading model.source: too little memory?"
    await until(engine, other, Status.RUNNING)
    await process.end()
    assert work.done == ["prepare"] * 4
    assert await keys_of_attempts(redis_url) == []


async def test_a_round_that_kills_the_process_is_abandoned(engine: Engine, work: Work, tmp_path: Path) -> None:
    job_id = await aggregating(engine)
    for _ in range(3):
        process = Process(engine, tmp_path)
        await process.has_begun(work)
        await process.kill()
    process = Process(engine, tmp_path)
    closed = await first_round(engine, job_id)
    await process.end()
    assert closed.phase is Phase.ABANDONED
    assert closed.reason == "aggregation failed: the aggregator ended 3 times while at it: too little memory?"
    assert work.done == ["round 1"] * 3


async def test_a_process_that_was_asked_to_stop_spoils_no_attempt(engine: Engine, work: Work, tmp_path: Path) -> None:
    job_id = await posted(engine)
    for _ in range(5):
        process = Process(engine, tmp_path)
        await process.has_begun(work)
        process.stop.set()
        await asyncio.sleep(0.05)
        await process.kill()  # as a supervisor does when the process does not stop in time
    work.go.set()
    process = Process(engine, tmp_path)
    await until(engine, job_id, Status.RUNNING)
    await process.end()


@pytest.mark.slow
async def test_a_failing_aggregation_is_given_up_after_three_attempts(
    engine: Engine, work: Work, tmp_path: Path, redis_url: str
) -> None:
    job_id = await aggregating(engine)
    work.error = OSError("the disk is full")
    work.go.set()
    process = Process(engine, tmp_path)
    closed = await first_round(engine, job_id)
    await process.end()
    assert closed.reason == "aggregation failed: OSError: the disk is full"
    assert work.done == ["round 1"] * 3
    assert await keys_of_attempts(redis_url) == []


async def test_an_aggregate_that_is_not_finite_ends_its_round(engine: Engine, work: Work, tmp_path: Path) -> None:
    job_id = await aggregating(engine)
    work.statistics = {"explained": float("nan"), "norm": 1.0}
    work.go.set()
    process = Process(engine, tmp_path)
    closed = await first_round(engine, job_id)
    await process.end()
    assert closed.reason.startswith("aggregation failed: explained of the aggregate is not finite")


async def test_a_round_of_too_few_fit_updates_ends_at_once_and_its_reason_names_them(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    job_id = await aggregating(engine)
    work.error = TooFewLeft(1, 2, {"b": "its update is not fit"})
    work.go.set()
    process = Process(engine, tmp_path)
    closed = await first_round(engine, job_id)
    await process.end()
    assert closed.reason == (
        "aggregation failed: only 1 of 2 updates can be taken, and rounds.min_clients is 2; left out: b: its update is "
        "not fit; where training diverged, lower local.learning_rate"
    )
    assert (closed.participants["b"].dropped, closed.participants["a"].dropped) == ("its update is not fit", None)
    assert work.done == ["round 1"]
    job = await engine.reader.job(job_id)
    assert (job.ready().model.version, list(job.setbacks)) == (0, ["b"])


async def test_weights_that_are_not_fit_are_not_written_and_the_way_back_is_said(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    job_id = await aggregating(engine)
    await engine.aggregator.aggregated(job_id, 1, a_version(1), {}, {})
    for client in "ab":
        await engine.agents.report(job_id, 2, client, a_receipt(client))
    work.error = OutOfBounds("w holds NaN or infinite values; 32768 is the most")
    work.go.set()
    process = Process(engine, tmp_path)
    async with asyncio.timeout(LONG_S):
        while not (closed := await round_of(engine, job_id, 2)).phase.is_final:
            await engine.reader.wait_for_change(0.05)
    await process.end()
    assert closed.reason == (
        "aggregation failed: weights would be written that are not fit: w holds NaN or infinite values; 32768 is the "
        f"most; go back to version 0 (`fedgalore jobs rollback {job_id} --version 0`)"
    )
    assert work.done == ["round 2"]


async def test_a_damaged_update_is_asked_for_again(engine: Engine, work: Work, tmp_path: Path, redis_url: str) -> None:
    job_id = await aggregating(engine)
    work.error = aggregation.UpdatesDamaged(["a"])
    work.go.set()
    process = Process(engine, tmp_path)
    async with asyncio.timeout(LONG_S):
        while await engine.agents.next_task("a", wait_s=0.1) is None:
            pass
    assert (await round_of(engine, job_id, 1)).participants["b"].receipt == a_receipt("b")
    work.error = None
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("trained again"))).outcome == "accepted"
    assert (await first_round(engine, job_id)).phase is Phase.COMMITTED
    await process.end()
    assert work.done == ["round 1"] * 2
    assert await keys_of_attempts(redis_url) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        BlobsAway("s3://blobs: it does not answer"),
    ],
)
async def test_a_disk_that_takes_nothing_and_a_bucket_that_is_away_are_waited_for(
    engine: Engine, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.setattr(aggregator, "FULL_S", 0.02)
    job_id = await aggregating(engine)
    work.error = error
    work.go.set()
    process = Process(engine, tmp_path)
    for _ in range(5):  # more attempts than after any other error
        await process.has_begun(work)
    assert (await engine.reader.job(job_id)).round.phase is Phase.AGGREGATION
    work.error = None
    assert (await first_round(engine, job_id)).phase is Phase.COMMITTED
    await process.end()


async def test_rounds_go_before_new_jobs(engine: Engine, work: Work, tmp_path: Path) -> None:
    first = await posted(engine)
    rounds = await aggregating(engine)
    assert first < rounds
    work.go.set()
    process = Process(engine, tmp_path)
    await until(engine, first, Status.RUNNING)
    await process.end()
    assert work.done[:2] == ["round 1", "prepare"]


async def test_a_job_cancelled_meanwhile_wants_no_result(
    engine: Engine, work: Work, tmp_path: Path, redis_url: str
) -> None:
    job_id, other = await posted(engine), await posted(engine)
    process = Process(engine, tmp_path)
    await process.has_begun(work)
    await engine.people.cancel(job_id)
    work.go.set()
    await until(engine, other, Status.RUNNING)
    await process.end()
    assert (await engine.reader.job(job_id)).status is Status.CANCELLED
    assert await keys_of_attempts(redis_url) == []


async def test_an_unreadable_job_stops_no_other(engine: Engine, work: Work, tmp_path: Path, redis_url: str) -> None:
    broken, job_id = await posted(engine), await posted(engine)
    async with Redis.from_url(redis_url) as redis:
        await redis.hset(f"fedgalore:job:{broken}", "document", "{}")
    work.go.set()
    process = Process(engine, tmp_path)
    await until(engine, job_id, Status.RUNNING)
    await process.end()


@pytest.mark.slow
async def test_it_wakes_only_for_its_kind_of_work(engine: Engine, work: Work, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(aggregator, "IDLE_S", LONG_S)
    work.go.set()
    looks = []
    look = engine.reader.active_jobs

    async def active_jobs() -> Any:
        looks.append(1)
        return await look()

    monkeypatch.setattr(engine.reader, "active_jobs", active_jobs)
    process = Process(engine, tmp_path)
    await asyncio.sleep(0.2)  # it has looked, subscribed, looked again and sleeps
    for client in "ab":
        await engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
    job_id = await posted(engine)
    await all_fit(engine)
    await until(engine, job_id, Status.RUNNING)
    await engine.driver.tick_all()  # it may have run before both sites had answered
    await asyncio.sleep(0.1)
    before = len(looks)
    assert await engine.agents.next_task("a") is not None
    assert (await engine.agents.report(job_id, 1, "a", a_receipt("a"))).outcome == "accepted"
    await asyncio.sleep(0.1)
    assert len(looks) == before
    assert (await engine.agents.report(job_id, 1, "b", a_receipt("b"))).outcome == "accepted"
    assert (await first_round(engine, job_id)).phase is Phase.COMMITTED
    await process.kill()


async def test_it_counts_silent_agents_as_present_as_long_as_the_coordinator_does(
    redis_url: str, tmp_path: Path
) -> None:
    settings = load(flags={"redis_url": redis_url, "blob_dir": tmp_path, "presence_s": 7})
    built = build(settings, DirectoryBlobStore(tmp_path))
    assert built.agents.presence_s == 7
    await built.close()


# --- the final model, loaded back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [None, "version 2 is downloaded, and its logits differ"])
async def test_a_job_ends_when_its_model_was_loaded_back(
    difference: str | None, engine: Engine, work: Work, tmp_path: Path, redis_url: str
) -> None:
    job_id = await ending(engine)
    assert (await engine.reader.job(job_id)).status is Status.RUNNING
    work.difference = difference
    work.go.set()
    process = Process(engine, tmp_path)
    reason = await until(engine, job_id, Status.FAILED if difference else Status.COMPLETED)
    await process.end()
    assert reason.startswith(difference or "version 2 is final")
    assert work.done == ["load back"]
    assert await keys_of_attempts(redis_url) == []


async def test_a_lost_cut_pauses_the_job_that_cannot_end_without_it_and_says_what_serves(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    work.go.set()
    job_id = await ending(engine, by_cuts=True)
    process = Process(engine, tmp_path)  # where none of the blobs is
    reason = await until(engine, job_id, Status.PAUSED)
    checkpoint = a_version(0).chain.checkpoint.weights
    assert reason.startswith("version 2 is final")
    assert f"blob {checkpoint.sha256}, which version 0 is made of, is missing or damaged; restore it" in reason
    job = await engine.reader.job(job_id)
    with pytest.raises(BlobLost, match="which version 0 is made of, is missing or damaged; restore it"):
        await engine.people.with_whole_weights(job, a_step_on(a_step_on(a_version(0))))
    await engine.people.resume(job_id)  # as after a restore, which is tried again
    await until(engine, job_id, Status.PAUSED)
    await process.end()
    assert work.done == []


async def test_a_model_that_kills_the_process_ends_its_job_unchecked(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    job_id = await ending(engine)
    for _ in range(3):
        process = Process(engine, tmp_path)
        await process.has_begun(work)
        await process.kill()
    process = Process(engine, tmp_path)
    reason = await until(engine, job_id, Status.COMPLETED)
    await process.end()
    assert reason.endswith(
        "nobody has looked at its download, because the aggregator ended 3 times while it loaded the model back: "
        "too little memory?"
    )
    assert work.done == ["load back"] * 3


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("damaged"), Status.FAILED), (MemoryError("no room"), Status.COMPLETED)]
)
async def test_what_cannot_be_looked_at_is_tried_again_and_said(
    error: Exception, status: Status, engine: Engine, work: Work, tmp_path: Path
) -> None:
    job_id = await ending(engine)
    work.error = error
    work.go.set()
    process = Process(engine, tmp_path)
    said = await until(engine, job_id, status)
    assert f"its download cannot be looked at ({type(error).__name__}: {error}" in said
    assert ("the aggregator has too little memory, give it more" in said) == isinstance(error, MemoryError)
    await process.end()
    assert work.done == ["load back"] * 3


async def test_a_model_that_memory_is_too_small_for_is_no_fault_of_transformers(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    work.error = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    work.go.set()
    job_id, process = await posted(engine), Process(engine, tmp_path)
    said = await until(engine, job_id, Status.FAILED)
    await process.end()
    assert said.startswith("model.source: RuntimeError: [enforce fail")
    assert said.endswith("; the aggregator has too little memory, give it more, or take a smaller model")


async def test_a_job_cancelled_while_its_model_is_loaded_back_stays_cancelled(
    engine: Engine, work: Work, tmp_path: Path
) -> None:
    job_id = await ending(engine)
    process = Process(engine, tmp_path)
    await process.has_begun(work)
    await engine.people.cancel(job_id)
    work.go.set()
    await process.end()
    assert (await engine.reader.job(job_id)).status is Status.CANCELLED


async def test_an_aggregator_whose_lease_is_no_longer_renewed_ends(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("no socket left")

    monkeypatch.setattr(engine.aggregator, "keep_lease", broken)
    process = Process(engine, tmp_path)
    with pytest.raises(ExceptionGroup) as ended, capture_logs() as logged:
        await asyncio.wait_for(process.running, LONG_S)
    assert ended.group_contains(RuntimeError, match="no socket left")
    assert [(row["event"], row["task"]) for row in logged] == [("background_task_ended", "lease")]
