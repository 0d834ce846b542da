"""Hears of the changes that any process makes, over a Redis subscription of this process.

Topics are the words of a message (`Effect` names); every message counts for the topic "" too. A caller notes `mark()`,
looks at the state, and waits for the mark to be passed: a change between the look and the wait is not missed.
Pub/sub may lose messages while it reconnects, so every new subscription counts as a change of everything.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

RETRY_S = 0.2
LISTEN_S = 5.0


class Watcher:
    """Counts messages by topic. Belongs to the event loop that first waits on it."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._counts: Counter[str] = Counter()
        self._subscriptions = 0
        # An event for each topic, for its waiters up to the next change: others sleep on.
        self._changes: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._listener: asyncio.Task[None] | None = None

    def mark(self, topic: str = "") -> int:
        """A number that grows with every change of the topic."""
        return self._counts[topic] + self._subscriptions

    async def wait(self, timeout_s: float, since: int | None = None, topic: str = "") -> bool:
        """Waits until the topic's mark passes `since` (default: its mark now); False when the time ran out."""
        start = self.mark(topic) if since is None else since
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="wake listener")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.mark(topic) <= start:
                    await self._changes[topic].wait()
        return self.mark(topic) > start

    async def close(self) -> None:
        if self._listener is not None:
            while not self._listener.done():  # before Python 3.12 redis-py may lose a cancellation while it subscribes
                self._listener.cancel()
                await asyncio.wait({self._listener}, timeout=RETRY_S)
            self._listener = None

    async def _listen(self) -> None:
        while True:
            # While Redis is away, the callers' time limits bring them back, and they see the error themselves.
            with suppress(RedisError, OSError):
                await self._follow()
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            asked = False
            while True:
                message = await subscription.get_message(timeout=LISTEN_S)
                if message is None:
                    if asked:
                        return  # a server that is cut off says nothing, not even that it is gone
                    await subscription.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "subscribe":
                    self._subscriptions += 1
                    self._wake(set(self._changes))
                elif message["type"] == "message":
                    topics = {"", *message["data"].split()}
                    self._counts.update(topics)
                    self._wake(topics)

    def _wake(self, topics: set[str]) -> None:
        for topic in topics & self._changes.keys():
            self._changes.pop(topic).set()
