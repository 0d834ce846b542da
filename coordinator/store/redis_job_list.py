"""The list of jobs on Redis: which there are, newest first, and which of them are asked for. No document is read."""

from __future__ import annotations

import json

from coordinator.state.job_filter import ALL, Facts, JobFilter
from coordinator.state.job_id import posted_before
from coordinator.store.redis_connection import RedisConnection

LOOKED_AT = 1000  # jobs at a time


class RedisJobList:
    """Every method raises `StateUnavailable` when Redis does not answer."""

    def __init__(self, connection: RedisConnection) -> None:
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._job = connection.job
        self._facts = connection.script("facts")

    async def ids(self, after: str | None, limit: int, wanted: JobFilter = ALL) -> list[str]:
        """Newest first, from the job that follows `after` on; empty when `after` is no id of a job.

        A job whose facts are lacking, as of an earlier version of this software, is among them: its document tells
        whether it is asked for.
        """
        start = await self._behind(after)
        found: list[str] = []
        while start is not None and len(found) < limit:
            many = limit if wanted == ALL else LOOKED_AT
            listed = await self._ask(
                self._redis.zrange(self._key("jobs"), start, start + many - 1, desc=True, withscores=True)
            )
            found += [job_id for job_id, _ in listed] if wanted == ALL else await self._fitting(listed, wanted)
            over = wanted.created_after is not None and bool(listed) and listed[-1][1] <= wanted.created_after
            # Behind that job and not that place: the list may have grown at its front, or shrunk, meanwhile.
            start = await self._behind(listed[-1][0]) if len(listed) == many and not over else None
        return found[:limit]

    async def team(self, job_id: str) -> str:
        """The team of a job, whether or not its document can be read; empty: it is of none, or is not there."""
        _, facts = await self._ask(self._facts(keys=[self._job(job_id)]))
        return str(json.loads(facts).get("team", "")) if facts else ""

    async def _behind(self, after: str | None) -> int | None:
        """The place in the list that follows a job; None where that is no id of a job."""
        if after is None:
            return 0
        rank = await self._ask(self._redis.zrevrank(self._key("jobs"), after))
        if rank is None:  # deleted meanwhile
            if (posted := posted_before(after)) is None:
                return None
            rank = await self._ask(self._redis.zcount(self._key("jobs"), posted, "+inf")) - 1
        return int(rank) + 1

    async def _fitting(self, listed: list[tuple[str, float]], wanted: JobFilter) -> list[str]:
        found = await self._ask(self._facts(keys=[self._job(job_id) for job_id, _ in listed]))
        return [
            job_id
            for (job_id, created_at), status, facts in zip(listed, found[::2], found[1::2], strict=True)
            if not (status and facts) or wanted.takes(Facts.stored(status, created_at, facts))
        ]
