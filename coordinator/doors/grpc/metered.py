"""The bytes of a transfer, counted while they pass: where this process is killed, those of the last second are missing
at most. A count is a write to Redis, so there is one a second, not one a piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from coordinator.doors.unbroken import to_its_end
from coordinator.state.errors import DomainError

FIRST_S, EVERY_S = 0.1, 1.0  # a short transfer is counted once, when it has ended
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def metered(count: Callable[[int], Awaitable[None]], **of: Any) -> AsyncIterator[Callable[[int], None]]:
    """Yields what is told of bytes that have passed; the rest is counted at the end, also of a call that breaks.

    Args:
        count: adds to the count. What fails is tried again with what has passed since; it fails no transfer.
        of: what the transfer is, for the log.
    """
    passed, counted, over = 0, 0, asyncio.Event()

    def tell(n_bytes: int) -> None:
        nonlocal passed
        passed += n_bytes

    async def settle() -> None:
        nonlocal counted
        new = passed - counted
        if new:
            await count(new)
            counted += new

    async def keep() -> None:
        wait_s, last = FIRST_S, False
        while not last:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), wait_s)
            wait_s, last = min(2 * wait_s, EVERY_S), over.is_set()
            try:
                await settle()
            except DomainError as error:
                if last:
                    _log.warning("traffic_not_counted", **of, reason=str(error))

    keeping = asyncio.create_task(keep())
    try:
        yield tell
    finally:
        over.set()
        await to_its_end(keeping)
