"""Which clients are enrolled, when each was last seen, and what waits for it: on Redis.

| key              | type | what                                                                |
|------------------|------|---------------------------------------------------------------------|
| `agents`         | hash | client -> what it registered, as JSON                               |
| `teams`          | hash | client -> the teams that it is given to, as JSON                    |
| `seen`           | zset | client by its last sign of life                                     |
| `tasks:<client>` | set  | ids of jobs whose round in flight waits for this client             |
| `checks:<client>` | set | ids of jobs that wait to hear whether this client's data fit        |

A job's save writes the last two.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, fields
from typing import NamedTuple

from coordinator.state.records import AgentRecord, Waiting
from coordinator.store.gathering import Gathering
from coordinator.store.redis_connection import RedisConnection
from coordinator.store.writes import NOTHING, Stored
from fedgalore import version

_FIELDS = frozenset(field.name for field in fields(AgentRecord))
_NEWER = frozenset({"oldest_protocol_version"})  # fields that the release before does not know


class Contact(NamedTuple):
    """What a client's sign of life finds.

    Args:
        record: what it registered; None where it is not known.
        waiting: None where it is not registered, or speaks no protocol version that is spoken here: no sign of life is
            noted then.
        stored: document and version of the job that it speaks of.
    """

    record: AgentRecord | None
    waiting: Waiting | None
    stored: Stored = NOTHING


class _Sign(NamedTuple):
    """A sign of life of a client that speaks of a job, or of none."""

    client: str
    now: float
    job_id: str | None


class RedisAgentStore:
    """Every method raises `StateUnavailable` when Redis does not answer."""

    def __init__(self, connection: RedisConnection) -> None:
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._job, self._take_out, self._write = connection.job, connection.take_out, connection.write
        self._register, self._touch = connection.script("register"), connection.script("touch")
        self._busy = connection.script("busy")
        self._signs: Gathering[_Sign, Contact] = Gathering(self._noted)

    def tasks(self, client: str) -> str:
        """The key of the jobs that wait for its work."""
        return self._key(f"tasks:{client}")

    def checks(self, client: str) -> str:
        """The key of the jobs that wait for its check."""
        return self._key(f"checks:{client}")

    async def register(self, agent: AgentRecord, now: float, present_since: float = 0.0) -> float | None:
        """Makes a client known, or known again; None when it is.

        Otherwise an agent of another folder has its name, and has given a sign of life since `present_since`: its last.
        """
        keys = [self._key("seen"), self._key("agents")]
        args = [agent.name, _stored(agent), repr(now), repr(present_since)]
        outcome, *seen = await self._ask(self._register(keys=keys, args=args))
        return float(seen[0]) if outcome == "taken" else None

    async def record(self, client: str) -> AgentRecord | None:
        """What the client registered."""
        return _record(await self._ask(self._redis.hget(self._key("agents"), client)))

    async def expect(self, agent: AgentRecord) -> bool:
        """Enters a client that has not been seen yet; False, and nothing changed, when its name is entered already."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hsetnx(self._key("agents"), agent.name, _stored(agent))
            pipeline.zadd(self._key("seen"), {agent.name: 0}, nx=True)
            return bool((await self._ask(pipeline.execute()))[0])

    async def teams(self) -> dict[str, frozenset[str]]:
        """The teams of each client that is given to any."""
        given = await self._ask(self._redis.hgetall(self._key("teams")))
        return {client: frozenset(json.loads(teams)) for client, teams in given.items()}

    async def give(self, client: str, teams: Collection[str]) -> None:
        """Gives a client to these teams, and to no others."""
        key, document = self._key("teams"), json.dumps(sorted(teams))
        await self._write(lambda pipe: pipe.hset(key, client, document) if teams else pipe.hdel(key, client))

    async def forget(self, client: str) -> bool:
        """False when nobody of that name was registered."""
        await self.give(client, ())
        await self._ask(self._redis.zrem(self._key("seen"), client))
        return await self._take_out("agents", client)

    async def enrolled(self, client: str) -> tuple[bool, int]:
        """Whether the client is enrolled, and how many are."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hexists(self._key("agents"), client)
            pipeline.hlen(self._key("agents"))
            known, count = await self._ask(pipeline.execute())
        return bool(known), count

    async def touch(self, client: str, now: float, job_id: str | None = None) -> Contact:
        """Notes a sign of life; what waits for the client, and the job that it speaks of."""
        return await self._signs(_Sign(client, now, job_id))

    async def busy(self, clients: Sequence[str], unreadable: Collection[str] = ()) -> set[str]:
        """The clients that a round in flight waits for, of another job than the `unreadable` ones."""
        if not clients:
            return set()
        waiting = await self._ask(self._busy(keys=[self.tasks(client) for client in clients]))
        return {client for client, ids in zip(clients, waiting, strict=True) if set(ids.split()) - set(unreadable)}

    async def jobs_in_hand(self) -> set[str]:
        """Ids of the jobs that wait for work of any client."""
        if not (clients := await self._ask(self._redis.hkeys(self._key("agents")))):
            return set()
        waiting = await self._ask(self._busy(keys=[self.tasks(client) for client in clients]))
        return {job_id for ids in waiting for job_id in ids.split()}

    async def seen(self, since: float | None = None) -> list[tuple[AgentRecord, float]]:
        """Registered clients, by name, with when they were last seen; only those seen since then."""
        low = "-inf" if since is None else repr(since)
        seen = await self._ask(self._redis.zrange(self._key("seen"), low, "+inf", byscore=True, withscores=True))
        if not seen:
            return []
        times = {client: float(score) for client, score in seen}
        documents = await self._ask(self._redis.hmget(self._key("agents"), sorted(times)))
        records = [record for document in documents if (record := _record(document))]
        return [(record, times[record.name]) for record in records]

    async def last_seen(self, clients: Sequence[str]) -> dict[str, float]:
        """When each client gave its last sign of life; 0 where it never did."""
        if not clients:
            return {}
        times = await self._ask(self._redis.zmscore(self._key("seen"), list(clients)))
        return {client: float(at or 0) for client, at in zip(clients, times, strict=True)}

    async def _noted(self, signs: list[_Sign]) -> list[Contact]:
        jobs: dict[str | None, Stored] = {sign.job_id: NOTHING for sign in signs if sign.job_id is not None}
        keys = [self._key("seen"), self._key("agents")]
        args = [str(version.PROTOCOL_VERSION), str(version.OLDEST_PROTOCOL_VERSION)]
        for sign in signs:
            keys += [self.tasks(sign.client), self.checks(sign.client)]
            args += [sign.client, repr(sign.now)]
        keys += [self._job(job_id) for job_id in jobs if job_id is not None]
        found, stored = await self._ask(self._touch(keys=keys, args=args))
        jobs = dict(zip(jobs, _pairs(stored), strict=True))
        return [
            Contact(_record(record), _waiting(ids), jobs.get(sign.job_id, NOTHING))
            for sign, (record, ids) in zip(signs, _pairs(found), strict=True)
        ]


def _pairs(flat: list[str | None]) -> Iterator[tuple[str | None, str | None]]:
    """The elements two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def _stored(record: AgentRecord) -> str:
    """Without what says nothing: the release before may read it, and knew no such field."""
    return json.dumps({name: value for name, value in asdict(record).items() if value or name not in _NEWER})


def _record(document: str | None) -> AgentRecord | None:
    """What was registered, as far as this release knows the fields: the next one may have written it."""
    if not document:
        return None
    return AgentRecord(**{name: value for name, value in json.loads(document).items() if name in _FIELDS})


def _waiting(ids: str | None) -> Waiting | None:
    if ids is None:
        return None
    tasks, checks = ids.split("|")
    return Waiting(sorted(tasks.split()), sorted(checks.split()))
