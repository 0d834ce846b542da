"""Whether the state store and the blob directory belong together.

A blob is garbage when no job names it. With the wrong Redis, or an emptied one, every trained model would be garbage,
and what was written would be missing in the right one. Therefore both sides carry a random id, which is drawn when both
are new, and the age of the Redis, which each look of the collector raises. Without the same id, or with a Redis that is
younger than the blobs know it, no blob is deleted and nothing is written.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from coordinator.state.errors import StateUnavailable
from coordinator.store.blob_store import BlobStore
from coordinator.store.redis_state_store import RedisStateStore

_ACCEPT = "`fedgalore accept-state` takes this Redis as it is, and shows before what is lost by that"


class NotBound(RuntimeError):
    """State and blobs do not belong together; the message names the remedies."""


@dataclass(frozen=True)
class Bound:
    """State and blobs belong together. `warning`: what an operator should know about it; None if all is well."""

    store_id: str
    warning: str | None


class Binding:
    """The bond of one state store and one blob store, as this process sees it."""

    def __init__(self, store: RedisStateStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._warning: str | None = None
        self._threads = ThreadPoolExecutor(2, "binding")  # a lease's turn asks, which must not wait for uploads
        self._turn = asyncio.Lock()  # a second check must not take the unfinished bond of the first for an old bond
        self._bound: Bound | None = None  # as last found
        self._held_at = float("-inf")  # when that check began, by the monotonic clock

    async def check(self, max_age_s: float = 0.0) -> Bound:
        """Reads the ids of both sides, and binds blobs that are not bound yet.

        Args:
            max_age_s: a good check that began so long before this call at most, or since, will do.

        Raises:
            NotBound: the blobs belong to another state store.
            StateUnavailable, OSError: the state store or the blob store does not answer.
        """
        asked = time.monotonic()
        async with self._turn:
            if self._bound is not None and self._held_at > asked - max_age_s:
                return self._bound
            return await self._check()

    async def must_hold(self, max_age_s: float = 0.0) -> None:
        """As `check`, for callers that wait until the right state store is there.

        Args:
            max_age_s: as of `check`.

        Raises:
            StateUnavailable: the two do not belong together, or cannot be read.
        """
        if time.monotonic() - self._held_at < max_age_s:
            return
        try:
            await self.check(max_age_s)
        except (NotBound, OSError) as error:
            raise StateUnavailable(str(error)) from error

    async def grow_older(self) -> None:
        """Raises the age of the state store, and has the blobs know the age before: what a crash of Redis takes may
        be the last raise.

        Raises:
            StateUnavailable, OSError: the state store or the blob store does not answer.
        """
        before = await self._store.grow_older() - 1
        await asyncio.to_thread(self._blobs.note_age, before)

    async def _check(self) -> Bound:
        began, place = time.monotonic(), self._blobs.setting
        # The age of the state store is read after what the blobs know of it, which may grow meanwhile.
        loop = asyncio.get_running_loop()
        of_blobs, seen = await asyncio.gather(
            loop.run_in_executor(self._threads, self._blobs.store_id),
            loop.run_in_executor(self._threads, self._blobs.age),
        )
        of_store = await self._store.store_id()
        if of_blobs is None:
            await self._must_be_new(of_store)
            used_before = of_store is not None
            # The state store gets its id first: after a kill in between, the next check comes here again.
            proposed = of_store or uuid.uuid4().hex
            of_store = await self._store.store_id(proposed) or proposed
            of_blobs = await asyncio.to_thread(self._blobs.bind, of_store)
            if used_before and of_blobs == of_store:
                self._warning = (
                    f"{place} is new, but this Redis has been used with another {place}, where the models of earlier "
                    f"jobs are. Give that {place}, unless it is lost"
                )
        if of_blobs != of_store:
            known = f"this Redis has {of_store}" if of_store else "this Redis has none"
            raise NotBound(
                f"{place} belongs to another Redis (its store-id is {of_blobs}, {known}), so no blob is deleted and "
                f"nothing is written: give the redis_url of the Redis that this {place} was used with, or an empty "
                f"{place}. {_ACCEPT}"
            )
        if (age := await self._store.age()) < seen:
            raise NotBound(
                f"this Redis is an older copy (it was looked at {age} times, and {place} knows of {seen}), so no blob "
                f"is deleted and nothing is written: give the newest copy. {_ACCEPT}"
            )
        self._bound, self._held_at = Bound(of_blobs, self._warning), began
        return self._bound

    async def _must_be_new(self, of_store: str | None) -> None:
        """Raises `NotBound` for blobs without an id beside a state store that names none of them."""
        if of_store is None and not await self._store.job_ids(None, 1):
            held = await asyncio.to_thread(self._blobs.held, ())
            if held.unneeded:
                raise NotBound(
                    f"{self._blobs.setting} has {len(held.unneeded)} blobs and no store-id, and this Redis is empty, "
                    "so no blob is deleted and nothing is written: give the Redis that it was used with. "
                    f"{_ACCEPT}"
                )
