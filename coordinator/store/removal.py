"""Takes jobs out of Redis. What outlives them is kept: which blobs they leave, and what they add to totals.

| key         | type | what                                                                                         |
|-------------|------|----------------------------------------------------------------------------------------------|
| `discarded` | set  | hashes of blobs that removed jobs named; each leaves the set when it is deleted or needed again |
| `deleted`   | set  | ids of removed jobs that the collector has yet to hear of                                    |
| `removed`   | hash | `committed`, `abandoned` (rounds), `up`, `down` (bytes) of removed jobs: counters never fall |
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Literal

from coordinator.store.redis_connection import RedisConnection

_PARTS = ("rounds", "events", "progress", "attempts", "traffic", "totals")


class Removal:
    """Every method raises `StateUnavailable` when Redis does not answer."""

    def __init__(self, connection: RedisConnection) -> None:
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._keep, self._remove = connection.keep, connection.script("remove")

    async def remove(
        self,
        job_id: str,
        version: int | None,
        idempotency_key: str | None,
        blobs: Collection[str],
    ) -> Literal["removed", "stale", "gone"]:
        """Removes a job, its rounds, events, counters and tasks in a single step, and wakes the collector.

        Args:
            version: the job's number of saves when the caller looked at it; None: whatever it is now.
            idempotency_key: None: whatever it is, which takes a look at all of them.
            blobs: hashes of blobs that the job named and the blob store holds.
        """
        if idempotency_key is None:
            used = await self._ask(self._redis.hgetall(self._key("idempotency")))
            idempotency_key = next((key for key, used_for in used.items() if used_for == job_id), "")
        clients = await self._ask(self._redis.hkeys(self._key("agents")))
        names = [f"job:{job_id}", *(f"job:{job_id}:{part}" for part in _PARTS)]
        names += [
            "jobs",
            "active",
            "idempotency",
            "discarded",
            "removed",
            "deleted",
            "taken_out",
            *(f"tasks:{client}" for client in clients),
        ]
        args = [job_id, "" if version is None else str(version), idempotency_key, self._key("wake")]
        args.append(json.dumps(sorted(blobs)))
        outcome: Literal["removed", "stale", "gone"] = await self._keep(
            self._remove, [self._key(name) for name in names], args
        )
        return outcome

    async def totals(self) -> dict[str, int]:
        """What removed jobs had counted, by name."""
        counts = await self._ask(self._redis.hgetall(self._key("removed")))
        return {name: int(count) for name, count in counts.items()}

    async def discarded(self) -> set[str]:
        """Hashes of blobs that removed jobs named."""
        return set(await self._ask(self._redis.smembers(self._key("discarded"))))

    async def forget_discarded(self, hashes: Collection[str]) -> None:
        """Takes hashes off: they are deleted, or are needed again."""
        if hashes:
            await self._ask(self._redis.srem(self._key("discarded"), *hashes))

    async def forget_deleted(self, job_ids: Collection[str]) -> None:
        """Takes jobs off of which the collector has heard that they are deleted."""
        if job_ids:
            await self._ask(self._redis.srem(self._key("deleted"), *job_ids))
