"""Calls that come at once are made together, and each is answered by work that began after it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.store.gathering import Gathering


class Slow:
    """Doubles numbers when it is let go on; raises at a 0."""

    def __init__(self, most: int = 256) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.call = Gathering(self.work, most)

    async def work(self, calls: list[int]) -> list[int]:
        self.batches.append(calls)
        await self.go_on.wait()
        if 0 in calls:
            raise ValueError("nothing")
        return [2 * call for call in calls]

    async def begun(self, *calls: int) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self.call(call)) for call in calls]
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks


async def test_what_comes_while_work_is_under_way_waits_for_the_next() -> None:
    slow = Slow(most=2)
    first = await slow.begun(1)
    later = await slow.begun(2, 3, 4)
    assert slow.batches == [[1]]
    slow.go_on.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8]
    assert slow.batches == [[1], [2, 3], [4]]
    assert await slow.call(5) == 10


async def test_an_error_meets_those_who_came_together_and_nobody_else() -> None:
    slow = Slow()
    first = await slow.begun(1)
    together = await slow.begun(0, 2)
    slow.go_on.set()
    assert await first[0] == 2
    for each in together:
        with pytest.raises(ValueError, match="nothing"):
            await each
    assert await slow.call(3) == 6


async def test_who_is_cancelled_leaves_the_others_alone() -> None:
    slow = Slow()
    first = await slow.begun(1, 2)
    later = await slow.begun(3, 4)
    for each in (first[0], later[0]):
        each.cancel()
    await asyncio.sleep(0)
    slow.go_on.set()
    assert [await first[1], await later[1]] == [4, 8]
    assert slow.batches == [[1, 2], [3, 4]]  # what it asked for is done all the same
