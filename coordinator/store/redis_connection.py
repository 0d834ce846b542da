"""A Redis (>= 7, or Valkey) under a prefix, as every store of this package talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import OutOfMemoryError, RedisError

from coordinator.state.errors import StateUnavailable

PREFIX = "fedgalore"
TIMEOUT_S = 5.0
MOST_CONNECTIONS = 32  # of a process
TURN_S = 30.0  # a thousand agents that call at once wait for each other, and longer than for a Redis that is away


class RedisConnection:
    """Belongs to one event loop; any number of processes may share the prefix."""

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,  # who finds none free waits: hundreds of agents may call at once
            timeout=TURN_S,
            decode_responses=True,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            health_check_interval=10,
            # Short: a caller can wait better than we can. What was sent again may happen twice: a job's step then finds
            # itself stale and its event meets what it has done already; a counter may count once too often.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=3),
        )
        self.redis = Redis.from_pool(pool)
        self._prefix = prefix
        self._take_out = self.script("take_out")

    def key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def job(self, job_id: str, part: str = "") -> str:
        """The key of a job, or of a part of it."""
        return self.key(f"job:{job_id}:{part}" if part else f"job:{job_id}")

    def script(self, name: str) -> AsyncScript:
        """One of `coordinator/store/lua`."""
        text = files("coordinator.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        return self.redis.register_script(text)

    async def take_out(self, table: str, entry: str) -> bool:
        """Deletes an entry of a hash on purpose, which is counted: what else is missing there was lost. False when
        there was none.

        Raises:
            StateUnavailable: no answer.
        """
        return bool(await self.ask(self._take_out(keys=[self.key(table), self.key("taken_out")], args=[entry, table])))

    async def ask(self, command: Awaitable[Any] | Any) -> Any:
        """The only way to Redis: its errors do not leave this package.

        Raises:
            StateUnavailable: no answer.
        """
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            answer = await command
            # redis-py sends under `asyncio.wait_for`, which before Python 3.12 loses a cancellation that meets the end
            # of the send: without this a cancelled loop would go on for ever.
            if task and task.cancelling() > cancelled:
                raise asyncio.CancelledError
            return answer
        except OutOfMemoryError as error:
            raise StateUnavailable(
                f"the state store is full ({error}); raise its maxmemory or delete jobs, then try again"
            ) from error
        except (RedisError, OSError) as error:
            raise StateUnavailable(
                f"the state store does not answer ({error}); check redis_url and the Redis server, then try again"
            ) from error

    async def close(self) -> None:
        await self.redis.aclose()
