"""Whether the state store and the blob directory belong together.

A blob is garbage when no job names it. With the wrong Redis, or an emptied one, every trained model would be garbage.
Therefore both sides carry a random id, which is drawn when both are new, and no blob is deleted unless the two ids are
equal.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

from coordinator.state.errors import StateUnavailable
from coordinator.store.blob_store import BlobStore
from coordinator.store.redis_state_store import RedisStateStore


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
        self._turn = asyncio.Lock()  # a second check must not take the unfinished bond of the first for an old bond

    async def check(self) -> Bound:
        """Reads the ids of both sides, and binds blobs that are not bound yet.

        Raises:
            NotBound: the blobs belong to another state store.
            StateUnavailable, OSError: the state store or the blob store does not answer.
        """
        async with self._turn:
            return await self._check()

    async def must_hold(self) -> None:
        """As `check`, for callers that wait until the right state store is there.

        Raises:
            StateUnavailable: the two do not belong together, or cannot be read.
        """
        try:
            await self.check()
        except (NotBound, OSError) as error:
            raise StateUnavailable(str(error)) from error

    async def _check(self) -> Bound:
        of_blobs = await asyncio.to_thread(self._blobs.store_id)
        of_store = await self._store.store_id()
        if of_blobs is None:
            used_before = of_store is not None
            # The state store gets its id first: after a kill in between, the next check comes here again.
            proposed = of_store or uuid.uuid4().hex
            of_store = await self._store.store_id(proposed) or proposed
            of_blobs = await asyncio.to_thread(self._blobs.bind, of_store)
            if used_before and of_blobs == of_store:
                self._warning = (
                    "blob_dir is new, but this Redis has been used with another blob_dir, where the models of earlier "
                    "jobs are. Give that blob_dir, unless it is lost"
                )
        if of_blobs != of_store:
            known = f"this Redis has {of_store}" if of_store else "this Redis has none"
            raise NotBound(
                f"blob_dir belongs to another Redis (its store-id is {of_blobs}, {known}), so no blob is deleted: give "
                "the redis_url of the Redis that this blob_dir was used with, or an empty blob_dir"
            )
        return Bound(of_blobs, self._warning)
