"""Calls that come at once are made together: while one is on its way, the next ones gather."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """Turns many calls into few. A call is never answered by work that had begun before it came.

    A caller that is cancelled leaves the others alone, and what it asked for is done all the same. Belongs to one event
    loop.

    Args:
        work: answers calls in their order, at least one and at most `most`. What it raises, each of their callers gets.
    """

    def __init__(self, work: Callable[[list[Q]], Awaitable[Sequence[A]]], most: int = 256) -> None:
        self._work = work
        self._most = most
        self._calls: list[tuple[Q, asyncio.Future[A]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, call: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._calls.append((call, answer))
        if self._worker is None or self._worker.done():
            # What is logged on the way belongs to no single caller.
            self._worker = asyncio.create_task(self._work_off(), context=Context())
        return await answer

    async def _work_off(self) -> None:
        while self._calls:
            calls, self._calls = self._calls[: self._most], self._calls[self._most :]
            try:
                answers = await self._work([call for call, _ in calls])
            except Exception as error:
                for _, answer in calls:
                    if not answer.done():
                        answer.set_exception(error)
            except BaseException:
                for _, answer in [*calls, *self._calls]:
                    answer.cancel()
                raise
            else:
                for (_, answer), found in zip(calls, answers, strict=True):
                    if not answer.done():
                        answer.set_result(found)
