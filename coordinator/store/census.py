"""Which keys Redis holds of which jobs, whatever the list of jobs says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.store.contradictions import JobKeys, Size
from coordinator.store.redis_connection import RedisConnection

SCANNED = 1000  # keys at a time
TABLES = ("keys", "join_tokens", "credentials", "agents", "idempotency")


@dataclass(frozen=True)
class Census:
    """`jobs`: all that Redis holds something of. `deleted`: jobs that people deleted since the last look. `sizes`: of
    the other tables that nobody can do without."""

    jobs: dict[str, JobKeys]
    deleted: frozenset[str]
    sizes: dict[str, Size]


async def take(connection: RedisConnection) -> Census:
    """Reads no document.

    Raises:
        StateUnavailable: Redis does not answer.
    """
    redis, key, ask = connection.redis, connection.key, connection.ask
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.zrange(key("jobs"), 0, -1)
        pipeline.smembers(key("active"))
        pipeline.smembers(key("deleted"))
        listed, active, deleted = await ask(pipeline.execute())
    parts = await _parts(connection)
    ids = sorted({*listed, *active, *parts})
    async with redis.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.hexists(connection.job(job_id), "document")
            pipeline.hmget(connection.job(job_id), ["version", "status", "round", "facts"])
            pipeline.hlen(connection.job(job_id, "rounds"))
            pipeline.hmget(connection.job(job_id, "totals"), ["committed", "abandoned"])
        rows = await ask(pipeline.execute())
    listed, active = set(listed), set(active)
    return Census(
        {
            job_id: JobKeys(
                job_id in listed,
                job_id in active,
                bool(has_document and version),
                frozenset(parts[job_id]),
                int(version or 0),
                number or "",
                closed,
                sum(int(count or 0) for count in counts),
                bool(status and facts),
            )
            for job_id, has_document, (version, status, number, facts), closed, counts in zip(
                ids, rows[::4], rows[1::4], rows[2::4], rows[3::4], strict=True
            )
        },
        frozenset(deleted),
        await _sizes(connection),
    )


async def _sizes(connection: RedisConnection) -> dict[str, Size]:
    async with connection.redis.pipeline(transaction=True) as pipeline:
        for name in TABLES:
            pipeline.hlen(connection.key(name))
        pipeline.scard(connection.key("struck"))
        pipeline.get(connection.key("tokens"))  # a number that never falls
        pipeline.hgetall(connection.key("taken_out"))
        *entries, taken_out = await connection.ask(pipeline.execute())
    names = (*TABLES, "struck", "tokens")
    return {name: Size(int(n or 0), int(taken_out.get(name, 0))) for name, n in zip(names, entries, strict=True)}


async def unlisted(connection: RedisConnection, waiting: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Which of these a client would not hear of: `tasks` or `checks`, client, id of the job that waits for it.

    Raises:
        StateUnavailable: Redis does not answer.
    """
    async with connection.redis.pipeline(transaction=False) as pipeline:
        for kind, client, job_id in waiting:
            pipeline.sismember(connection.key(f"{kind}:{client}"), job_id)
        found = await connection.ask(pipeline.execute())
    return [each for each, listed in zip(waiting, found, strict=True) if not listed]


async def _parts(connection: RedisConnection) -> dict[str, set[str]]:
    """By job, the names of its keys beside the record."""
    start = connection.job("")
    parts: dict[str, set[str]] = defaultdict(set)
    cursor = 0
    while True:
        cursor, keys = await connection.ask(connection.redis.scan(cursor, f"{start}*", SCANNED))
        for key in keys:
            job_id, _, part = key.removeprefix(start).partition(":")
            parts[job_id] |= {part} - {""}
        if not cursor:
            return parts
