"""What is kept beside a job's document, on Redis: written without a compare-and-set, while there is a job.

| key                  | type | what                                                                            |
|----------------------|------|---------------------------------------------------------------------------------|
| `job:<id>:progress`  | hash | client -> what it last said, as JSON; gone when the round closes                |
| `job:<id>:attempts`  | hash | `prepare` or `round <number>` -> times that the aggregator began it; gone when  |
|                      |      | it is done, or the round or the job closes                                      |
| `job:<id>:traffic`   | hash | `<round>/<client>/<up or down>` -> bytes                                        |
| `job:<id>:totals`    | hash | `committed`, `abandoned` (rounds), `up`, `down` (bytes), `evaluated` (the last  |
|                      |      | closed round in which clients did), `metrics` (of that round, JSON),            |
|                      |      | `statistics` (of the last version that was made, JSON)                          |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from coordinator.state.round_state import Round
from coordinator.state.totals import Totals, totals_of
from coordinator.store.gathering import Gathering
from coordinator.store.redis_connection import RedisConnection
from coordinator.store.writes import Fence


class _Field(NamedTuple):
    """What is written beside a job's document, by `HSET` or `HINCRBY`."""

    job: str  # key of the job
    key: str  # of the hash
    command: str
    name: str
    value: str


class RedisBesideStore:
    """Every method raises `StateUnavailable` when Redis does not answer."""

    def __init__(self, connection: RedisConnection) -> None:
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._job = connection.job
        self._attempt, self._beside = connection.script("attempt"), connection.script("beside")
        self._fields: Gathering[_Field, None] = Gathering(self._written)

    async def set_progress(self, job_id: str, client: str, progress: dict[str, Any]) -> None:
        key = self._job(job_id, "progress")
        await self._fields(_Field(self._job(job_id), key, "HSET", client, json.dumps(progress)))

    async def progress(self, job_id: str) -> dict[str, dict[str, Any]]:
        documents = await self._ask(self._redis.hgetall(self._job(job_id, "progress")))
        return {client: json.loads(document) for client, document in sorted(documents.items())}

    async def begin_attempt(
        self, job_id: str, piece: str, round: int | None = None, fence: Fence | None = None
    ) -> int | Literal["fenced"]:
        """Counts that the aggregator begins a piece of work; how often it has, this time included.

        0, and nothing is counted: the job is final, or `round` is not in flight. "fenced": the lease is over.
        """
        keys = [self._job(job_id), self._job(job_id, "attempts"), self._key("active")]
        keys.append(self._key(f"lease:{fence.lease if fence else ''}"))
        args = [piece, job_id, "" if round is None else str(round), str(fence.token) if fence else ""]
        counted: int | Literal["fenced"] = await self._ask(self._attempt(keys=keys, args=args))
        return counted

    async def forget_attempts(self, job_id: str, piece: str) -> None:
        await self._ask(self._redis.hdel(self._job(job_id, "attempts"), piece))

    async def add_traffic(self, job_id: str, round: int, client: str, direction: str, n_bytes: int) -> None:
        job, places = self._job(job_id), (("traffic", f"{round}/{client}/{direction}"), ("totals", direction))
        await asyncio.gather(
            *(
                self._fields(_Field(job, self._job(job_id, part), "HINCRBY", name, str(n_bytes)))
                for part, name in places
            )
        )

    async def totals(self, job_id: str) -> Totals:
        """What is counted of the job."""
        return totals_of(await self._ask(self._redis.hgetall(self._job(job_id, "totals"))))

    async def traffic(self, job_id: str, rounds: Iterable[Round]) -> dict[int, dict[str, dict[str, int]]]:
        """Bytes of these rounds by round, client and direction ("up", "down")."""
        asked = [(each.number, client) for each in rounds for client in sorted(each.participants)]
        if not asked:
            return {}
        fields = [f"{number}/{client}/{direction}" for number, client in asked for direction in ("up", "down")]
        counts = await self._ask(self._redis.hmget(self._job(job_id, "traffic"), fields))
        table: dict[int, dict[str, dict[str, int]]] = {}
        for (number, client), up, down in zip(asked, counts[::2], counts[1::2], strict=True):
            if up is not None or down is not None:
                table.setdefault(number, {})[client] = {"up": int(up or 0), "down": int(down or 0)}
        return table

    async def _written(self, fields: list[_Field]) -> list[None]:
        """Writes fields beside documents; nothing where there is no such job (any more)."""
        keys = [key for field in fields for key in (field.job, field.key)]
        args = [word for field in fields for word in (field.command, field.name, field.value)]
        await self._ask(self._beside(keys=keys, args=args))
        return [None] * len(fields)
