"""Who drives: of all replicas on a Redis, a single process at a time.

A lease is held for `lease_s` seconds and renewed while its holder lives; who takes it over gets a higher fencing token
(Kleppmann 2016). Whatever is written under a lease names its token, and Redis refuses the token of a lease that is
over: a process that was paused for longer than its lease writes nothing when it wakes. A lease ends by Redis' clock.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from coordinator.state.errors import LeaseLost, StateUnavailable
from coordinator.store.redis_state_store import LEASE_FREE, RedisStateStore
from coordinator.store.writes import Fence

DRIVER, AGGREGATOR = "driver", "aggregator"

log = structlog.get_logger(__name__)


async def _always() -> None:
    """The store is always the right one."""


class NoLease:
    """Takes the place of a lease where a process drives alone, or several may do the same work."""

    drives = True
    fence = None

    def drop(self) -> None:
        """There is nothing to drop."""

    async def held(self) -> None:
        """Returns at once."""

    async def keep(self) -> None:
        """Runs until it is cancelled, as `Lease.keep` does."""
        await asyncio.Event().wait()


class Lease:
    """One process' claim to a lease; `keep` runs as long as the process."""

    def __init__(
        self,
        store: RedisStateStore,
        name: str,
        lease_s: float,
        check_state: Callable[[], Awaitable[None]] = _always,
    ) -> None:
        """`check_state` raises `StateUnavailable` where this is not the store that the process works on: no lease is
        taken there, so that nothing is driven."""
        self._store = store
        self._check_state = check_state
        self._name = name
        self._lease_s = lease_s
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._token: int | None = None
        self._ends = 0.0  # of the monotonic clock; earlier than Redis thinks
        self._held = asyncio.Event()
        self._away = False

    @property
    def drives(self) -> bool:
        """Whether this lease is held, and is the lease under which rounds are opened."""
        return self._name == DRIVER and self.is_held

    @property
    def is_held(self) -> bool:
        """Whether the lease is held, as far as this process knows; Redis has the last word."""
        return self._token is not None and time.monotonic() < self._ends

    @property
    def fence(self) -> Fence:
        """What a write under this lease names.

        Raises:
            LeaseLost: the lease is not held.
        """
        if self._token is None or not self.is_held:
            raise LeaseLost(f"lease {self._name!r} is held by another process; wait until it is free")
        return Fence(self._name, self._token)

    def drop(self) -> None:
        """Notes that Redis refused the token: the lease is over, whatever the clock here says."""
        self._ends = 0.0

    async def held(self) -> None:
        """Returns when the lease is held."""
        while not self.is_held:
            self._held.clear()
            await self._held.wait()

    async def keep(self) -> None:
        """Takes the lease when it is free, renews it, takes it anew when it was lost; gives it up when cancelled.

        Who gives it up wakes the others, so that one of them has it at once.
        """
        try:
            while True:
                mark = self._store.mark(LEASE_FREE)
                await self._turn()
                # A third: two renewals may fail before the lease ends.
                await self._store.wait(self._lease_s / 3, mark, LEASE_FREE)
        finally:
            if self.is_held:
                self.drop()
                with suppress(StateUnavailable):
                    await self._store.release_lease(self._name, self._holder)

    async def _turn(self) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self._lease_s / 3):  # the store's patience may be longer than the lease
                await self._check_state()
                token = await self._store.take_lease(self._name, self._holder, self._lease_s)
        except (StateUnavailable, TimeoutError) as error:
            if not self._away:  # once an outage
                log.warning("state_unavailable", lease=self._name, reason=str(error) or "no answer in time")
            self._away = True
            return  # a lease in hand is held until it ends
        self._away = False
        if token != self._token:
            if token is not None:
                log.info("lease_taken", lease=self._name, token=token)
            elif self._token is not None:
                log.warning("lease_lost", lease=self._name, token=self._token)
        self._token, self._ends = token, asked + self._lease_s
        if token is not None:
            self._held.set()
