"""A stream that ends when its caller is out, or what it is for has ended, also while it stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from coordinator.state.errors import StateUnavailable

RECHECK_S = 5.0

T = TypeVar("T")


async def watched(work: Coroutine[Any, Any, T], check: Callable[[], Awaitable[None]]) -> T:
    """The work's result. The check is made every `RECHECK_S` seconds; what it raises ends the work and is raised.

    A state store that does not answer says nothing: the check is made again.
    """
    working = asyncio.create_task(work)
    try:
        while not (await asyncio.wait([working], timeout=RECHECK_S))[0]:
            with suppress(StateUnavailable):
                await check()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
    return working.result()
