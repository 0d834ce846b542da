"""Whether the state store and the blob directory belong together.

A blob is garbage when no job names it, so a wrong, emptied or mixed-up Redis would make garbage of every trained model.
Therefore both sides carry one random id, made when both are new, and nothing is deleted unless the two are equal.
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
    """They belong together. `warning`: what is odd about it, if anything."""

    store_id: str
    warning: str | None


class Binding:
    """The bond of one state store and one blob store, as this process sees it."""

    def __init__(self, store: RedisStateStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._warning: str | None = None
        self._turn = asyncio.Lock()  # a second look must not take a first one's half-made bond for an old one

    async def check(self) -> Bound:
        """Looks at both sides anew, and binds blobs that are bound to nothing yet.

        Raises:
            NotBound: the blobs belong to another state store.
            StateUnavailable, OSError: one side does not answer.
        """
        async with self._turn:
            return await self._check()

    async def must_hold(self) -> None:
        """As `check`, for whoever would wait until the right state store is there.

        Raises:
            StateUnavailable
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
            # The state first: killed in between, the next look finds blobs without an id and goes on here.
            proposed = of_store or await self._store.store_id(uuid.uuid4().hex)
            assert proposed is not None
            of_blobs, of_store = await asyncio.to_thread(self._blobs.bind, proposed), proposed
            if used_before and of_blobs == of_store:
                self._warning = (
                    "blob_dir is new, but this Redis has been used with another one: models of earlier jobs are not "
                    "here. Give the blob_dir that they are in, unless it is lost"
                )
        if of_blobs != of_store:
            known = f"this Redis has {of_store}" if of_store else "this Redis has none"
            raise NotBound(
                f"blob_dir belongs to another Redis (its store-id is {of_blobs}, {known}), so no blob is deleted: give "
                "the redis_url of the Redis that this blob_dir was used with, or an empty blob_dir"
            )
        return Bound(of_blobs, self._warning)
