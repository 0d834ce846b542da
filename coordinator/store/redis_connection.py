"""A Redis (>= 7, or Valkey) under a prefix, as every store of this package talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import OutOfMemoryError, RedisError

from coordinator.state.errors import StateUnavailable
from coordinator.store.redis_address import RedisAddress
from coordinator.store.redis_client import PREFIX, client_at, key_prefix

TIMEOUT_S = 5.0
REPLICAS_MS = 2000  # as long replicas may take to say that they have a write
MOST_CONNECTIONS = 32  # of a process
TURN_S = 30.0  # a thousand agents that call at once wait for each other, and longer than for a Redis that is away


class RedisConnection:
    """Belongs to one event loop; any number of processes may share the prefix."""

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        address = RedisAddress.parse(url)
        self.redis = client_at(
            address,
            prefix,
            max_connections=MOST_CONNECTIONS,  # who finds none free waits: hundreds of agents may call at once
            timeout=TURN_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            health_check_interval=10,
            # Short: a caller can wait better than we can. What was sent again may happen twice: a job's step then finds
            # itself stale and its event meets what it has done already; a counter may count once too often.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=3),
        )
        self._prefix = key_prefix(address, prefix)
        self._replicas = address.replicas
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
        keys = [self.key(table), self.key("taken_out")]
        return bool(await self.keep(self._take_out, keys, [entry, table]))

    async def keep(self, script: AsyncScript, keys: Sequence[str], args: Sequence[str]) -> Any:
        """Runs a script whose writes must outlive the server: as many replicas as the URL asks for have them, too.

        Raises:
            StateUnavailable: no answer, or too few replicas have it yet. It may have happened all the same.
        """
        if not self._replicas:
            return await self.ask(script(keys=keys, args=args))
        return await self.write(lambda pipeline: pipeline.eval(str(script.script), len(keys), *keys, *args))

    async def write(self, command: Callable[[Pipeline], object]) -> Any:
        """As `keep`, of a command that is put into a pipeline."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            command(pipeline)
            if self._replicas:
                # Redis waits for the last write of this connection. So there is one, whatever the command does, and all
                # that this server has written before is at the replicas as well.
                pipeline.set(self.key("confirmed"), "")
                pipeline.wait(self._replicas, REPLICAS_MS)
            answer, *more = await self.ask(pipeline.execute())
        if more and (reached := more[-1]) < self._replicas:
            raise StateUnavailable(
                f"{reached} of {self._replicas} replicas of the state store have a write that a failover must not "
                "lose; look after the replicas, or ask for fewer in redis_url, then try again"
            )
        return answer

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

    async def confirm(self) -> None:
        """Returns when as many replicas as the URL asks for have all that was written before.

        Raises:
            StateUnavailable: no answer, or too few replicas have it yet.
        """
        if self._replicas:
            await self.write(lambda pipeline: pipeline.ping())

    async def close(self) -> None:
        await self.redis.aclose()
