"""Where jobs, rounds and agents are kept: Redis (>= 7, or Valkey).

Layout, every key under `<prefix>:`

| key                  | type   | what                                                                            |
|----------------------|--------|---------------------------------------------------------------------------------|
| `jobs`               | zset   | job id by `created_at`                                                          |
| `active`             | set    | ids of jobs that are not final                                                  |
| `idempotency`        | hash   | idempotency key -> job id                                                       |
| `job:<id>`           | hash   | `document`: the job as JSON, round in flight inside; `version`: number of saves; |
|                      |        | `round`: number of the round in flight, or empty; `status`; `facts`: by which it |
|                      |        | is found (`coordinator.state.job_filter`), JSON                                  |
| `job:<id>:rounds`    | hash   | number -> closed round as JSON                                                  |
| `job:<id>:events`    | stream | `type`, `data` (JSON): `coordinator.state.stream_events`                        |
| `job:<id>:progress`  | hash   | with `job:<id>:attempts` and `job:<id>:traffic`: `redis_beside_store`           |
| `agents`             | hash   | with `seen`, `tasks:<client>` and `checks:<client>`: `redis_agent_store`        |
| `store`              | string | random id, the same as in the blob directory: `coordinator.store.binding`       |
| `age`                | string | how often the collector has looked at it: `coordinator.store.binding`           |
| `taken_out`          | hash   | table -> entries that were deleted on purpose: `coordinator.store.contradictions` |
| `refusal`            | string | why the collector deletes nothing, where it does not                            |
| `lease:<name>`       | hash   | `holder`, `token` of who drives, or aggregates; expires unless it is renewed    |
| `counters`           | hash   | what is counted of all jobs together: `coordinator.state.counters`              |
| `tokens`             | string | the last fencing token; each holder of a lease has a higher token than before   |
| `discarded`          | set    | with `deleted` and `removed`: what deleted jobs leave: `coordinator.store.removal` |
| `credentials`        | hash   | with `keys`, `join_tokens` and `struck`: `redis_credential_store`               |
| `confirmed`          | string | empty; written where replicas have to say that they have all up to here         |
| `wake`               | pubsub | a message for each save: names of effects, or `LEASE_FREE`, parted by spaces     |

Writes to several keys are one Lua script each (`coordinator/store/lua`), with named outcomes. A job's document moves by
compare-and-set on its version.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Literal

import structlog
from pydantic import TypeAdapter

from coordinator.state.counters import counted
from coordinator.state.errors import JobTooNew, JobUnreadable
from coordinator.state.formats import NewerFormat
from coordinator.state.job_filter import ALL, Facts, JobFilter
from coordinator.state.job_state import Job, Status
from coordinator.state.limits import MAX_JOBS
from coordinator.state.pooled import pooled, results
from coordinator.state.round_state import Phase, Round
from coordinator.state.stream_events import StreamEvent, StreamRow
from coordinator.state.totals import Summary, totals_of
from coordinator.store.gathering import Gathering
from coordinator.store.redis_agent_store import RedisAgentStore
from coordinator.store.redis_beside_store import RedisBesideStore
from coordinator.store.redis_client import PREFIX
from coordinator.store.redis_connection import RedisConnection
from coordinator.store.redis_job_list import RedisJobList
from coordinator.store.watcher import Watcher
from coordinator.store.writes import Change, Stored, VersionedJob

_ROUND = TypeAdapter(Round)
LEASE_FREE = "LEASE_FREE"  # a topic: somebody gave a lease up
MOST_KNOWN = 64  # jobs
MOST_VERSIONS = 1000  # of jobs
READ_AT_ONCE = 16  # documents
log = structlog.get_logger(__name__)


class RedisStateStore:
    """Belongs to one event loop; any number of processes may share the prefix.

    Every method raises `StateUnavailable` when Redis does not answer. Whatever reads a job raises `JobUnreadable` for a
    document that is damaged, or was written by another version of this software.
    """

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        self.connection = RedisConnection(url, prefix)
        self._redis, self._key, self._ask = self.connection.redis, self.connection.key, self.connection.ask
        self._unreadable: set[str] = set()
        self._too_new: set[str] = set()
        self._known: dict[str, tuple[str, Job]] = {}  # documents as last seen: most are read again unchanged
        self._versions: dict[str, int] = {}  # the newest that were seen
        self.agents = RedisAgentStore(self.connection)
        self.beside = RedisBesideStore(self.connection)
        self._list = RedisJobList(self.connection)
        self._create = self.connection.script("create")
        self._save = self.connection.script("save")
        self._lease = self.connection.script("lease")
        self._release = self.connection.script("release")
        self._documents: Gathering[str, Stored] = Gathering(self._fetched)
        self._watcher = Watcher(self._redis, self._key("wake"))

    async def store_id(self, proposed: str | None = None) -> str | None:
        """The id of this store. Where it has none yet, the proposed id is its id for good."""
        if proposed is not None:
            await self._ask(self._redis.set(self._key("store"), proposed, nx=True))
        store_id: str | None = await self._ask(self._redis.get(self._key("store")))
        return store_id

    async def accept_id(self, store_id: str) -> None:
        """Gives this store an id, whatever it had."""
        await self._ask(self._redis.set(self._key("store"), store_id))

    async def age(self) -> int:
        """How often it has grown older."""
        return int(await self._ask(self._redis.get(self._key("age"))) or 0)

    async def grow_older(self) -> int:
        """The age of this store from now on."""
        return int(await self._ask(self._redis.incr(self._key("age"))))

    async def refusal(self) -> str | None:
        """Why the collector deletes nothing, in words for people; None where it works."""
        reason: str | None = await self._ask(self._redis.get(self._key("refusal")))
        return reason

    async def note_refusal(self, reason: str | None) -> None:
        """Keeps why the collector deletes nothing, for every replica to tell."""
        key = self._key("refusal")
        await self._ask(self._redis.set(key, reason) if reason else self._redis.delete(key))

    async def create(
        self, job: Job, events: Sequence[StreamEvent], max_active: int = MAX_JOBS
    ) -> tuple[Literal["created", "exists", "full"], str]:
        """Writes a new job, or names the job that was made with its idempotency key before.

        "full", with their number: `max_active` jobs are active.
        """
        keys = [self._key("idempotency"), self.connection.job(job.id), self.connection.job(job.id, "events")]
        keys += [self._key("jobs"), self._key("active")]
        args = [job.idempotency_key or "", job.id, job.to_json(), repr(job.created_at)]
        args += [json.dumps([(kind, json.dumps(data)) for kind, data in events]), self._key("wake"), str(max_active)]
        args += [job.status, Facts.of(job).to_json()]
        outcome, job_id = await self.connection.keep(self._create, keys, args)
        return outcome, job_id

    async def enter(self, job: Job) -> None:
        """Puts a job whose record is there into the list of jobs, and of active jobs, unless it is in them."""
        await self._ask(self._redis.zadd(self._key("jobs"), {job.id: job.created_at}, nx=True))
        if not job.is_at_rest:
            await self._ask(self._redis.sadd(self._key("active"), job.id))

    async def job_of_key(self, idempotency_key: str) -> str | None:
        """Id of the job that was made with this idempotency key."""
        job_id: str | None = await self._ask(self._redis.hget(self._key("idempotency"), idempotency_key))
        return job_id

    async def load(self, job_id: str) -> VersionedJob | None:
        return self.read(job_id, await self._documents(job_id))

    def read(self, job_id: str, stored: Stored) -> VersionedJob | None:
        """A job as it was fetched a moment ago; None where there was none."""
        document, version = stored
        return VersionedJob(self._read(job_id, document), int(version)) if document and version else None

    async def save(self, change: Change) -> Literal["saved", "stale", "fenced"]:
        """Writes a step: the document, its events, the closed round, who has a task, and wakes whom it concerns.

        "fenced": the step is made under a lease that is over.
        """
        job, before = change.after, change.before.job
        gained, lost = self._waiting_sets(job, before), self._waiting_sets(before, job)
        keys = [self.connection.job(job.id), *(self.connection.job(job.id, part) for part in ("events", "rounds"))]
        keys += [self._key("active"), *(self.connection.job(job.id, part) for part in ("progress", "attempts"))]
        keys.append(self._key(f"lease:{change.fence.lease if change.fence else ''}"))
        keys += [self.connection.job(job.id, "totals"), self._key("counters"), *gained, *lost]
        rest: dict[str, Any] = {
            "final": job.is_at_rest,
            "status": job.status,
            "facts": Facts.of(job).to_json(),
            "round": str(job.round.number) if job.round else "",
            "events": [(kind, json.dumps(data)) for kind, data in change.events],
            "gained": len(gained),
            "counts": [[name, repr(added)] for name, added in counted(change.events, change.closed).items()],
        }
        if change.closed:
            closed = _ROUND.dump_json(change.closed).decode()
            measured = pooled(change.closed, job.parsed.server).metrics
            rest["closed"] = {
                "number": str(change.closed.number),
                "document": closed,
                "outcome": "committed" if change.closed.phase is Phase.COMMITTED else "abandoned",
                "measured": json.dumps(measured) if results(change.closed) else "",
                "statistics": json.dumps(change.closed.statistics) if change.closed.statistics else "",
            }
        document = job.to_json()
        args = [str(change.before.version), document, job.id, self._key("wake"), " ".join(change.effects)]
        args += [json.dumps(rest), str(change.fence.token) if change.fence else ""]
        outcome: Literal["saved", "stale", "fenced"] = await self.connection.keep(self._save, keys, args)
        if outcome == "saved":
            self._know(document, job)
            self._notice(job.id, change.before.version + 1, 0)
        return outcome

    async def take_lease(self, name: str, holder: str, lease_s: float) -> int | None:
        """Takes a free lease, or renews the holder's; its fencing token, or None while another holds it."""
        keys = [self._key(f"lease:{name}"), self._key("tokens")]
        token = await self._ask(self._lease(keys=keys, args=[holder, int(1000 * lease_s)]))
        return int(token) if token is not None else None

    async def release_lease(self, name: str, holder: str) -> None:
        """Gives the lease up if this holder has it, and wakes who waits for `LEASE_FREE`."""
        args = [holder, self._key("wake"), LEASE_FREE]
        await self._ask(self._release(keys=[self._key(f"lease:{name}")], args=args))

    async def counters(self) -> dict[str, float]:
        """What is counted of all jobs together: `coordinator.state.counters`."""
        return {
            name: float(text) for name, text in (await self._ask(self._redis.hgetall(self._key("counters")))).items()
        }

    async def leases(self, names: Sequence[str]) -> dict[str, bool]:
        """Whether a process holds each of these leases."""
        found = await asyncio.gather(*(self._ask(self._redis.exists(self._key(f"lease:{name}"))) for name in names))
        return dict(zip(names, map(bool, found), strict=True))

    async def job_ids(self, after: str | None, limit: int, wanted: JobFilter = ALL) -> list[str]:
        """Those that are asked for, newest first; see `RedisJobList.ids`."""
        return await self._list.ids(after, limit, wanted)

    async def team(self, job_id: str) -> str:
        """See `RedisJobList.team`."""
        return await self._list.team(job_id)

    async def active_ids(self) -> list[str]:
        return sorted(await self._ask(self._redis.smembers(self._key("active"))))

    async def saves(self, job_ids: Sequence[str]) -> dict[str, int]:
        """How often each job has been saved, its creation included; 0 where there is no such job."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(self.connection.job(job_id), "version")
            counts = await self._ask(pipeline.execute())
        return {job_id: int(count or 0) for job_id, count in zip(job_ids, counts, strict=True)}

    async def load_many(self, job_ids: Sequence[str]) -> list[Job]:
        """Those that exist and can be read: a damaged document must not hide the others."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(self.connection.job(job_id), "document")
            documents = await self._ask(pipeline.execute())
        jobs = []
        for number, (job_id, document) in enumerate(zip(job_ids, documents, strict=True)):
            if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)  # a thousand documents are no reason to let everybody wait
            with suppress(JobUnreadable):
                if document:
                    jobs.append(self._read(job_id, document))
        return jobs

    async def round_in_flight(self, job_id: str) -> int | None:
        """Its number, without reading the job."""
        number = await self._ask(self._redis.hget(self.connection.job(job_id), "round"))
        return int(number) if number else None

    async def closed_rounds(self, job_id: str) -> list[Round]:
        documents = await self._ask(self._redis.hvals(self.connection.job(job_id, "rounds")))
        rounds = await asyncio.to_thread(_rounds, job_id, documents)  # there may be 1000
        return sorted(rounds, key=attrgetter("number"))

    async def some_rounds(self, job_id: str, numbers: Sequence[int]) -> list[Round]:
        """Those of these rounds that have closed."""
        if not numbers:
            return []
        documents = await self._ask(self._redis.hmget(self.connection.job(job_id, "rounds"), list(map(str, numbers))))
        if len(documents) <= READ_AT_ONCE:
            return _rounds(job_id, documents)
        return await asyncio.to_thread(_rounds, job_id, documents)

    async def summaries(self) -> list[Summary]:
        """Of every job, what is counted of it, without reading its document."""
        job_ids = await self._ask(self._redis.zrange(self._key("jobs"), 0, -1))
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(self.connection.job(job_id), "status")
                pipeline.hgetall(self.connection.job(job_id, "totals"))
            rows = await self._ask(pipeline.execute())
        found = zip(job_ids, rows[::2], rows[1::2], strict=True)
        return [Summary(job_id, Status(status), totals_of(counts)) for job_id, status, counts in found if status]

    async def closed_round(self, job_id: str, number: int) -> Round | None:
        document = await self._ask(self._redis.hget(self.connection.job(job_id, "rounds"), str(number)))
        return _ROUND.validate_json(document) if document else None

    async def events(self, job_id: str, after: str, limit: int, *, last: bool = False) -> list[StreamRow]:
        """Rows (id, type, data) after the id `after`, oldest first: the first of them, or the `last`."""
        key = self.connection.job(job_id, "events")
        if last:
            rows = (await self._ask(self._redis.xrevrange(key, "+", f"({after}", count=limit)))[::-1]
        else:
            rows = await self._ask(self._redis.xrange(key, f"({after}", "+", count=limit))
        return [(event_id, fields["type"], json.loads(fields["data"])) for event_id, fields in rows]

    @property
    def unreadable(self) -> frozenset[str]:
        """Ids of the jobs whose documents could not be read."""
        return frozenset(self._unreadable)

    @property
    def too_new(self) -> frozenset[str]:
        """Ids of the jobs whose documents a newer release has written, as far as they were asked for."""
        return frozenset(self._too_new)

    def mark(self, topic: str = "") -> int:
        return self._watcher.mark(topic)

    async def wait(self, timeout_s: float, since: int | None = None, topic: str = "") -> bool:
        """Waits for a change made by any process; see `Watcher`."""
        return await self._watcher.wait(timeout_s, since, topic)

    async def close(self) -> None:
        await self._watcher.close()
        await self.connection.close()

    async def _fetched(self, job_ids: list[str]) -> list[Stored]:
        """Documents and versions; a job that many ask for is fetched once."""
        wanted = list(dict.fromkeys(job_ids))
        seen = {job_id: self._versions.get(job_id, 0) for job_id in wanted}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in wanted:
                pipeline.hmget(self.connection.job(job_id), ["document", "version"])
            found = dict(zip(wanted, await self._ask(pipeline.execute()), strict=True))
        for job_id, (document, version) in found.items():
            if document and version:
                self._notice(job_id, int(version), seen[job_id])
        return [found[job_id] for job_id in job_ids]

    def _notice(self, job_id: str, version: int, before: int) -> None:
        """Takes down the version of a job, which never falls but where Redis has lost saves.

        Args:
            before: the newest that was seen when this one was asked for.
        """
        if version < before:
            log.error(
                "state_went_back",
                job=job_id,
                reason=f"Redis has lost the last {before - version} saves of the job, as a failover may; it goes on "
                "from what is left, and agents do again what is missing. Add replicas=1 to redis_url against that",
            )
            self._versions.pop(job_id, None)
        self._versions[job_id] = max(version, self._versions.pop(job_id, 0))
        if len(self._versions) > MOST_VERSIONS:
            del self._versions[next(iter(self._versions))]

    def _waiting_sets(self, job: Job, other: Job) -> list[str]:
        """The sets of clients that have something to do in one state of a job and nothing in the other."""
        tasks, checks = job.open_clients - other.open_clients, job.unanswered - other.unanswered
        return [*map(self.agents.tasks, sorted(tasks)), *map(self.agents.checks, sorted(checks))]

    def _read(self, job_id: str, document: str) -> Job:
        """The job in a document. Raises `JobUnreadable`, and logs each such job once."""
        if job_id in self._known and self._known[job_id][0] == document:
            return self._known[job_id][1]
        try:
            job = Job.from_json(document)
        except NewerFormat as error:
            if job_id not in self._too_new:
                self._too_new.add(job_id)
                log.warning("job_too_new", job=job_id, reason=str(error))
            raise JobTooNew(
                f"a newer version of this software has written job {job_id} ({error}); upgrade this coordinator, or "
                "call a replica that is upgraded"
            ) from error
        except ValueError as error:
            if job_id not in self._unreadable:
                self._unreadable.add(job_id)
                log.error("job_unreadable", job=job_id, reason=str(error))
            raise JobUnreadable(
                f"the document of job {job_id} cannot be read; run the version of this software that wrote it, or "
                "restore it from a backup of Redis"
            ) from error
        self._unreadable.discard(job_id)
        self._too_new.discard(job_id)
        self._know(document, job)
        return job

    def _know(self, document: str, job: Job) -> None:
        self._known.pop(job.id, None)
        self._known[job.id] = document, job
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]


def _rounds(job_id: str, documents: Sequence[str | None]) -> list[Round]:
    """Those that there are. Raises `JobUnreadable` where one is damaged."""
    try:
        return [_ROUND.validate_json(each) for each in documents if each]
    except ValueError as error:
        raise JobUnreadable(
            f"a closed round of job {job_id} cannot be read; run the version of this software that wrote it, or "
            "restore it from a backup of Redis"
        ) from error
