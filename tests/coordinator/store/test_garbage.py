"""Garbage collection: blobs that a job needs or that are on their way stay, all other blobs go."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.doors.doorkeeper import Access, Doorkeeper
from coordinator.engine.assembly import assemble
from coordinator.state.errors import JobNotFound, StateUnavailable
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Job, Prepared, Status
from coordinator.state.round_state import ModelVersion, Round, UpdateReceipt
from coordinator.state.versions import is_kept
from coordinator.store import garbage
from coordinator.store.acceptance import NotAccepted, accept, look
from coordinator.store.binding import Binding, NotBound
from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S, Held
from coordinator.store.contradictions import StateContradicts
from coordinator.store.credentials import Role
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector, TooMuchToGo
from coordinator.store.looks import Looks
from coordinator.store.redis_credential_store import RedisCredentialStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.chain import Cut
from fedgalore.process.blob_ref import BlobRef
from tests.builders import a_plan, a_result, a_spec, blob_path, put_bytes, whole_version
from tests.sites import all_fit

KEEP_VERSIONS = a_spec().rounds.keep_versions.last
ROUNDS = KEEP_VERSIONS + 2


class CountingStore(RedisStateStore):
    """Counts how many jobs and rounds it reads."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads = 0

    async def load_many(self, job_ids: list[str]) -> list[Job]:  # type: ignore[override]
        self.reads += len(job_ids)
        return await super().load_many(job_ids)

    async def closed_rounds(self, job_id: str) -> list[Round]:
        closed = await super().closed_rounds(job_id)
        self.reads += len(closed)
        return closed

    async def closed_round(self, job_id: str, number: int) -> Round | None:
        closed = await super().closed_round(job_id, number)
        self.reads += closed is not None
        return closed


class House:
    """State and blobs that belong together, and steps to play a job of `ROUNDS` + 1 rounds."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.store = CountingStore(url)
        self.engine = assemble(self.store)
        self.blobs = DirectoryBlobStore(root)
        with redis.Redis.from_url(url) as client:
            client.set("fedgalore:store", self.blobs.bind("ours"))
        self.collector = self.another_collector()
        self.updates: list[BlobRef] = []
        self.base, self.export, self.first = (
            self.put("base"),
            self.put("export"),
            whole_version(0, self.put("weights 0")),
        )
        self.versions = [self.first]

    def another_collector(self) -> Collector:
        """A fresh collector, as in a restarted coordinator."""
        return Collector(self.store, self.blobs, Binding(self.store, self.blobs))

    async def swept(self, spent: bool = False, restarted: bool = False) -> int:
        """Two looks, far enough apart for all blobs that are there to go, or for those that are spent; bytes freed."""
        if restarted:
            self.collector = self.another_collector()
        freed = await self.collector.collect(at(0))
        return freed + await self.collector.collect(at(SPENT_GRACE_S if spent else GRACE_S) + 1)

    def put(self, text: str) -> BlobRef:
        return put_bytes(self.blobs, text.encode())

    async def start(self, rounds: int, evaluation: dict[str, Any] | None = None, **policy: int) -> str:
        section = {"count": rounds, "min_clients": 1, "keep_versions": policy}
        job, _ = await self.engine.people.create(a_spec(rounds=section, evaluation=evaluation or {}))
        prepared = Prepared(a_plan().to_dict(), (("a", self.base),), (("a", self.export),), self.first)
        await self.engine.aggregator.prepared(job.id, prepared)
        await self.engine.agents.register("north", PROTOCOL_VERSION, "0", {"reviews": 10})
        await all_fit(self.engine)
        return job.id

    async def report(self, job_id: str, number: int) -> None:
        await self.engine.driver.tick_all()
        self.updates.append(self.put(f"update {number}"))
        await self.engine.agents.report(job_id, number, "north", UpdateReceipt(self.updates[-1], 10, {}))

    async def train(self, job_id: str, number: int, loss: float | None = None) -> None:
        """A round that starts from a version of this loss, if it is measured."""
        await self.engine.driver.tick_all()
        if loss is not None:
            result = a_result(number - 1, 10, loss=loss)
            await self.engine.agents.evaluated(job_id, number, "north", result)
        await self.report(job_id, number)
        parts = [self.put(f"{part} {number}") for part in ("weights", "aggregate", "state")]
        self.versions.append(whole_version(number, *parts))
        await self.engine.aggregator.aggregated(job_id, number, self.versions[-1], {}, {})

    async def train_by_a_cut(self, job_id: str, number: int, checkpoint: bool = False) -> None:
        """A round that makes a version by a cut, of which whole weights are made if it is a checkpoint."""
        await self.report(job_id, number)
        cut, state = self.put(f"cut {number}"), self.put(f"state {number}")
        weights = self.put(f"weights {number}") if checkpoint else None
        chain = self.versions[-1].chain.then(Cut(number, cut))
        chain = chain.ended(number, weights) if weights else chain
        self.versions.append(ModelVersion(number, chain, weights, cut, state))
        await self.engine.aggregator.aggregated(job_id, number, self.versions[-1], {}, {})

    async def finish(self, job_id: str, number: int) -> None:
        """Evaluates the last version, which completes the job."""
        await self.engine.driver.tick_all()
        await self.engine.agents.evaluated(job_id, number, "north", a_result(number - 1))
        assert (await self.engine.aggregator.loaded_back(job_id, LoadedBack(number - 1))).status is Status.COMPLETED

    def held(self, *blobs: BlobRef | None) -> list[bool]:
        return [blob is not None and self.blobs.exists(blob.sha256) for blob in blobs]


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    house = House(redis_url, tmp_path / "blobs")
    yield house
    await house.engine.close()


def at(age_s: float) -> float:
    """A time at which the blobs of now are a little older than `age_s`."""
    return time.time() + age_s + 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_a_running_job_needs_stays_and_the_rest_goes(house: House, restarted: bool) -> None:
    job = await house.start(ROUNDS + 1)
    for number in range(1, ROUNDS + 1):
        await house.train(job, number)
        if number == 2 and not restarted:
            assert await house.collector.collect(time.time()) == 0  # all blobs are young
    await house.report(job, ROUNDS + 1)
    stray = house.put("stray")

    assert await house.swept() > 0

    newest = house.versions[-1]
    kept = [house.base, house.export, house.updates[-1], house.first.weights, newest.aggregate, newest.state]
    kept += [blob for version in house.versions[-KEEP_VERSIONS:] for blob in (version.weights, version.state)]
    gone = [stray, *house.updates[:-1], *(version.aggregate for version in house.versions[1:-1])]
    gone += [blob for version in house.versions[1:-KEEP_VERSIONS] for blob in (version.weights, version.state)]
    assert all(house.held(*kept))
    assert not any(house.held(*gone))


async def test_what_is_spent_goes_within_minutes_and_what_nobody_named_does_not(house: House) -> None:
    job = await house.start(ROUNDS + 1)
    stray = house.put("stray")
    for number in range(1, ROUNDS + 1):
        await house.train(job, number)
        assert await house.collector.collect(time.time()) == 0
    assert await house.swept(spent=True) > 0
    spent = [*house.updates, *(version.aggregate for version in house.versions[1:-1]), house.versions[1].weights]
    assert not any(house.held(*spent))
    assert all(house.held(stray, house.base, *(version.weights for version in house.versions[-KEEP_VERSIONS:])))


async def test_of_a_job_that_has_ended_the_downloads_stay(house: House) -> None:
    job = await house.start(KEEP_VERSIONS)
    for number in range(1, KEEP_VERSIONS + 1):
        await house.train(job, number)
    await house.finish(job, KEEP_VERSIONS + 1)
    await house.swept()
    newest = house.versions[-1]
    assert all(house.held(house.base, house.export, *(version.weights for version in house.versions[-KEEP_VERSIONS:])))
    assert all(house.held(*(version.state for version in house.versions[-KEEP_VERSIONS:])))  # for a rollback
    assert not any(house.held(house.first.weights, newest.aggregate, *house.updates))


async def test_a_cancelled_job_keeps_its_weights_alone(house: House) -> None:
    job = await house.start(ROUNDS)
    await house.train(job, 1)
    await house.engine.people.cancel(job)
    await house.swept()
    assert house.held(house.versions[1].weights, house.versions[1].state) == [True, False]


async def test_a_completed_job_that_is_rolled_back_is_looked_at_again(house: House) -> None:
    job = await house.start(KEEP_VERSIONS)
    for number in range(1, KEEP_VERSIONS + 1):
        await house.train(job, number)
    await house.finish(job, KEEP_VERSIONS + 1)
    await house.swept()
    to = house.versions[1]
    await house.engine.people.roll_back(job, to)
    await house.engine.people.resume(job)
    for number in (KEEP_VERSIONS + 2, KEEP_VERSIONS + 3):
        await house.engine.driver.tick_all()
        update = house.put(f"update {number}")
        await house.engine.agents.report(job, number, "north", UpdateReceipt(update, 10, {}))
        parts = [house.put(f"{part} {number}") for part in ("weights", "aggregate", "state")]
        house.versions.append(whole_version(number, *parts))
        await house.engine.aggregator.aggregated(job, number, house.versions[-1], {}, {})
    await house.swept()
    # versions 4 to 6 are kept, of which 4 has what was version 1's
    assert all(house.held(to.weights, to.state, *(version.weights for version in house.versions[-2:])))
    assert not any(house.held(*(version.weights for version in house.versions[2:4])))


async def test_all_that_a_rolled_back_job_names_is_there(house: House) -> None:
    job = await house.start(4, last=2)
    for number in range(1, 5):
        await house.train_by_a_cut(job, number, checkpoint=number == 2)
    await house.finish(job, 5)
    await house.swept()
    back = await house.engine.people.roll_back(job, house.versions[3])  # of the same checkpoint as version 4
    assert all(house.held(*back.trail.blobs))
    assert [version for version in range(6) if is_kept(back, version)] == [4, 5]


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_versions_are_made_of_stays_while_one_of_them_is_kept(house: House, restarted: bool) -> None:
    job = await house.start(6, last=2)
    for number in range(1, 7):
        await house.train_by_a_cut(job, number, checkpoint=number == 3)
        if not restarted:
            await house.swept(spent=True)
    await house.swept()

    def held(*numbers: int) -> list[bool]:
        return house.held(*(house.versions[number].aggregate for number in numbers))

    checkpoint = house.versions[3].weights
    assert held(1, 2, 3, 4, 5, 6) == [False, False, True, True, True, True]  # the third leads clients to the checkpoint
    assert all(house.held(house.first.weights, checkpoint, house.versions[5].state, house.versions[6].state))
    assert house.held(house.versions[4].state) == [False]

    await house.engine.driver.tick_all()
    await house.engine.agents.evaluated(job, 7, "north", a_result(6))
    final = house.put("weights 6")
    await house.engine.aggregator.weights_made(job, 6, final)
    await house.swept()
    assert all(house.held(final))
    await house.engine.aggregator.loaded_back(job, LoadedBack(6))
    await house.swept()
    assert all(house.held(checkpoint))
    assert held(3, 4, 5, 6) == [False, True, True, True]
    assert not any(house.held(house.first.weights, final))

    again = house.put("weights 6")  # for a download; clients of a version that goes on from it come by its chain
    await house.engine.aggregator.weights_made(job, 6, again)
    await house.swept()
    assert all(house.held(again, checkpoint))
    assert held(4, 5, 6) == [True, True, True]


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_best_version_and_those_of_the_policy_outlive_the_newest(house: House, restarted: bool) -> None:
    job = await house.start(ROUNDS + 3, {"keep": {"metric": "loss"}}, last=2, every=3)
    for number in range(1, ROUNDS + 3):
        await house.train(job, number, loss=abs(number - 3))  # version 2 is the best
        if not restarted:
            await house.swept(spent=True)
    await house.swept()
    held = [number for number, version in enumerate(house.versions) if house.held(version.weights) == [True]]
    assert held == [0, 2, 3, 6, 7]


async def test_rounds_and_ended_jobs_are_read_once(house: House) -> None:
    ended = await house.start(1)
    await house.train(ended, 1)
    await house.finish(ended, 2)
    going = await house.start(ROUNDS + 1)
    for number in range(1, ROUNDS + 1):
        await house.train(going, number)
    await house.collector.collect(time.time())
    await house.train(going, ROUNDS + 1)
    house.store.reads = 0
    await house.collector.collect(time.time())
    assert house.store.reads == 2  # the active job, and its new round


async def test_a_blob_put_again_is_young_again(house: House) -> None:
    await house.start(1)
    blob = house.put("as before")
    now = at(GRACE_S)
    path = blob_path(house.blobs, blob.sha256)
    os.utime(path, (0, 0))
    house.put("as before")
    assert path.stat().st_mtime > 0
    assert await house.collector.collect(time.time()) == 0
    await house.collector.collect(now)
    assert house.held(blob) == [False]


async def test_an_emptied_redis_makes_no_garbage(house: House, redis_url: str) -> None:
    job = await house.start(2)
    await house.train(job, 1)
    assert await house.collector.collect(time.time()) == 0
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    for collector in (house.collector, house.another_collector()):
        with pytest.raises(NotBound, match="an empty blob_dir"):
            await collector.collect(at(GRACE_S))
    assert all(house.held(house.base, house.export, house.versions[1].weights))


async def test_another_redis_database_on_the_same_blobs_makes_no_garbage(house: House, redis_url: str) -> None:
    job = await house.start(2)
    await house.train(job, 1)
    await house.collector.collect(time.time())
    other = RedisStateStore(f"{redis_url}/1" if redis_url.count("/") == 2 else f"{redis_url.rsplit('/', 1)[0]}/1")
    try:
        with pytest.raises(NotBound, match="belongs to another Redis"):
            await Collector(other, house.blobs, Binding(other, house.blobs)).collect(at(GRACE_S))
        fresh = DirectoryBlobStore(blob_path(house.blobs, house.base.sha256).parents[3] / "of its own")
        await Collector(other, fresh, Binding(other, fresh)).collect(at(GRACE_S))
        with pytest.raises(NotBound, match="this Redis has [0-9a-f]{32}"):
            await Collector(other, house.blobs, Binding(other, house.blobs)).collect(at(GRACE_S))
    finally:
        await other.close()
    assert all(house.held(house.base, house.export, house.versions[1].weights))


@pytest.mark.parametrize("document", [None, "{}"])
async def test_an_unreadable_job_stops_the_sweep(house: House, redis_url: str, document: str | None) -> None:
    job = await house.start(2)
    await house.collector.collect(time.time())
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"fedgalore:job:{job}")
        if document:
            client.hset(f"fedgalore:job:{job}", "document", document)
    with pytest.raises(RuntimeError, match=job):
        await house.swept()
    assert all(house.held(house.base, house.export))


async def test_what_only_a_deleted_job_named_goes_soon(house: House) -> None:
    job = await house.start(1)
    await house.train(job, 1)
    await house.finish(job, 2)
    other = await house.start(1)  # of the same base model
    newest = house.versions[-1]
    await house.collector.collect(time.time())
    await house.engine.people.delete(job, cancel=False, stored_bytes=house.blobs.stored_bytes)
    await house.swept(spent=True)
    assert house.held(newest.weights, house.updates[0]) == [False, False]
    assert house.held(house.base, house.export, house.first.weights) == [True, True, True]
    await house.engine.people.delete(other, cancel=True, stored_bytes=house.blobs.stored_bytes)
    waiting, _ = await house.engine.people.create(a_spec())  # its base model may be the same, nobody knows yet
    await house.swept(spent=True, restarted=True)
    assert house.held(house.base, house.export) == [True, True]
    await house.engine.people.delete(waiting.id, cancel=True, stored_bytes=house.blobs.stored_bytes)
    await house.swept(spent=True, restarted=True)
    assert house.held(house.base, house.export, house.first.weights) == [False, False, False]
    with redis.Redis.from_url(house.url) as client:
        assert not client.exists("fedgalore:discarded")


async def test_a_job_that_is_deleted_during_a_collection_is_no_obstacle(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.start(1)
    load_many = house.store.load_many

    async def too_late(job_ids: list[str]) -> list[Job]:
        monkeypatch.setattr(house.store, "load_many", load_many)
        await house.engine.people.delete(job, cancel=True, stored_bytes=house.blobs.stored_bytes)
        return await load_many(job_ids)

    monkeypatch.setattr(house.store, "load_many", too_late)
    await house.collector.collect(time.time())
    assert house.held(house.base) == [True]


async def test_a_job_that_waits_keeps_the_version_that_it_starts_from(house: House) -> None:
    old = await house.start(ROUNDS)
    await house.train(old, 1)
    source = {"source": f"job:{old}@1"}
    clone, _ = await house.engine.people.create(a_spec(model=source))
    for number in range(2, ROUNDS + 1):
        await house.train(old, number)
    start = house.versions[1].weights
    await house.swept()
    assert house.held(start) == [True]
    await house.engine.people.cancel(clone.id)
    await house.swept()
    assert house.held(start) == [False]


def keys_of(url: str) -> list[str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return sorted(str(key) for key in client.scan_iter("*"))


@pytest.fixture
async def trained(house: House) -> tuple[House, str]:
    """A job with versions that are kept and one that is not, looked at once."""
    job = await house.start(ROUNDS + 1)
    for number in range(1, ROUNDS + 1):
        await house.train(job, number)
    await house.swept()
    return house, job


async def test_a_lost_key_or_field_deletes_nothing(trained: tuple[House, str], monkeypatch: pytest.MonkeyPatch) -> None:
    house, job = trained
    monkeypatch.setattr(garbage, "AGAIN_S", 0.0)
    stray = house.put("a blob whose reference may be among what is lost")
    await house.engine.driver.tick_all()  # a round is in flight
    await house.store.take_lease("driver", "somebody", 60)
    credentials = RedisCredentialStore(house.url)
    doorkeeper = Doorkeeper(credentials, Access.SECURED, "x" * 32)
    for client in ("a", "b"):
        await doorkeeper.enrol(client, (await doorkeeper.create_join_token(client, 60))[1], "0" * 64)
        revoked, _ = await doorkeeper.create_key(client, Role.VIEWER)
    await house.collector.collect(at(0))
    await doorkeeper.revoke_key(revoked.id)  # on purpose
    await doorkeeper.revoke_agent("b")
    await house.collector.collect(at(0))
    await credentials.close()
    record = f"job:{job}"
    tables = ("jobs", "active", "store", "age", "tokens", "agents", "credentials", "keys", "tasks:north")
    lost = [(key, None) for key in (*tables, *(f"{record}{part}" for part in ("", ":rounds", ":events")))]
    lost += [(record, field) for field in ("document", "version", "round")]
    lost += [(f"{record}:rounds", str(ROUNDS))]
    with redis.Redis.from_url(house.url) as client:
        for name, field in lost:
            key = f"fedgalore:{name}"
            kept = client.dump(key)
            assert (client.hdel(key, field) if field else client.delete(key)) == 1
            for collector in (house.collector, house.another_collector()):
                with pytest.raises((StateContradicts, NotBound), match="no blob is deleted"):
                    await collector.collect(at(2 * GRACE_S))
            client.restore(key, 0, kept, replace=True)
    await house.engine.people.pause(job)  # it is read anew
    await house.collector.collect(at(2 * GRACE_S))
    kept_versions = [version.weights for version in house.versions[-KEEP_VERSIONS:]]
    assert all(house.held(stray, house.base, house.export, *kept_versions))


async def test_a_job_that_is_gone_without_a_trace_is_missed(trained: tuple[House, str]) -> None:
    house, job = trained
    with redis.Redis.from_url(house.url) as client:
        for key in client.scan_iter(f"*{job}*"):
            client.delete(key)
        client.zrem("fedgalore:jobs", job)
        client.srem("fedgalore:active", job)
    for _ in range(2):
        with pytest.raises(StateContradicts, match=f"job {job} is gone, and nobody has deleted it"):
            await house.another_collector().collect(at(GRACE_S))
    (blob_path(house.blobs, house.base.sha256).parents[2] / "looks.json").unlink()
    with pytest.raises(TooMuchToGo, match="sweep_share 0.5"):
        await house.swept(restarted=True)
    assert all(house.held(house.base, house.export, house.versions[-1].weights))


async def test_an_older_redis_deletes_nothing_and_takes_no_writes(trained: tuple[House, str]) -> None:
    house, _ = trained
    before = await house.store.age()
    assert before > house.blobs.age() > 0
    with redis.Redis.from_url(house.url) as client:
        client.set("fedgalore:age", 0)
    with pytest.raises(StateUnavailable, match=r"older copy \(it was looked at 0 times.*accept-state"):
        await Binding(house.store, house.blobs).must_hold()


async def test_what_is_accepted_goes_an_hour_later_and_not_before(trained: tuple[House, str]) -> None:
    house, job = trained
    with redis.Redis.from_url(house.url) as client:
        for key in ("jobs", "active", "age", "store", f"job:{job}:events"):
            client.delete(f"fedgalore:{key}")
    shown = await look(house.store, house.blobs)
    assert shown.not_bound is not None
    assert {f"job {job} is missing in the list of jobs", f"the events of job {job} are missing"} < set(
        shown.contradictions
    )
    stray = house.put("stray")
    await accept(house.store, house.blobs)
    assert (await house.engine.reader.jobs())[0].id == job
    collector = house.another_collector()
    await collector.collect(at(0))
    assert all(house.held(stray, house.base, house.versions[-1].weights))
    await collector.collect(at(GRACE_S) + 1)
    assert house.held(stray, house.base, house.versions[-1].weights) == [False, True, True]


async def test_what_an_earlier_version_did_not_write_is_filled_in(trained: tuple[House, str]) -> None:
    house, job = trained
    totals = [each.totals for each in await house.store.summaries()]
    with redis.Redis.from_url(house.url) as client:
        for _ in range(2):
            client.hdel(f"fedgalore:job:{job}", "status")
            client.delete(f"fedgalore:job:{job}:totals")
            assert (await look(house.store, house.blobs)).contradictions == ()
            await house.another_collector().collect(at(0))
            assert [each.totals for each in await house.store.summaries()] == totals
        client.hdel(f"fedgalore:job:{job}", "status")
    await accept(house.store, house.blobs)
    await house.swept(restarted=True)
    assert all(house.held(house.base, house.export, house.versions[-1].weights))


@pytest.mark.parametrize("field", ["document", "version"])
async def test_jobs_whose_record_nobody_can_read_are_not_given_up(trained: tuple[House, str], field: str) -> None:
    house, job = trained
    with redis.Redis.from_url(house.url) as client:
        client.hset(f"fedgalore:job:{job}", "document", "{}")
        if field == "version":
            client.hdel(f"fedgalore:job:{job}", "version")
    looks = house.blobs.looks()
    with pytest.raises(NotAccepted, match=f"jobs {job} are gone or cannot be read.*jobs delete <id> --cancel"):
        await accept(house.store, house.blobs)
    assert house.blobs.looks() == looks


async def test_what_is_accepted_during_a_look_is_not_lost(
    trained: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, _ = trained
    stray = house.put("stray")
    held = house.blobs.held

    def accepted_meanwhile(needed: frozenset[str]) -> Held:
        house.blobs.note_looks(Looks(let_go=frozenset({stray.sha256})).to_json())
        return held(needed)

    monkeypatch.setattr(house.blobs, "held", accepted_meanwhile)
    await house.another_collector().collect(at(0))
    assert stray.sha256 in Looks.read(house.blobs.looks()).let_go


async def test_a_job_that_has_lost_its_record_can_be_deleted(trained: tuple[House, str]) -> None:
    house, job = trained
    with redis.Redis.from_url(house.url) as client:
        client.delete(f"fedgalore:job:{job}")
    with pytest.raises(JobNotFound):
        await house.engine.people.delete(job, cancel=False, stored_bytes=house.blobs.stored_bytes)
    await house.engine.people.delete(job, cancel=True, stored_bytes=house.blobs.stored_bytes)
    await house.another_collector().collect(time.time())
    assert [key for key in keys_of(house.url) if job in key] == []


async def test_a_refusal_starts_the_hour_anew(trained: tuple[House, str]) -> None:
    house, job = trained
    stray = house.put("stray")
    await house.collector.collect(at(0))
    with redis.Redis.from_url(house.url) as client:
        client.srem("fedgalore:active", job)
        with pytest.raises(StateContradicts):
            await house.collector.collect(at(1))
        client.sadd("fedgalore:active", job)
    await house.collector.collect(at(GRACE_S) + 1)
    assert house.held(stray) == [True]
    await house.collector.collect(at(2 * GRACE_S) + 2)
    assert house.held(stray) == [False]
