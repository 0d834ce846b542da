"""Reading ahead: nothing is lost or held without bound, and errors come behind the chunks before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from coordinator.doors.grpc.ahead import MOST_AHEAD, TOGETHER, ReadAhead

CHUNKS = [bytes([number]) for number in range(20)]


class Stream:
    """Chunks, and how many were taken from it; it waits before some of them, and may break behind the last."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.taken = error, 0
        self.closed = False

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            for chunk in CHUNKS:
                if self.taken % 7 == 0:
                    await asyncio.sleep(0)
                self.taken += 1
                yield chunk
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def test_all_chunks_come_in_order_and_few_lie_ahead() -> None:
    stream, seen = Stream(), list[bytes]()
    async for batch in ReadAhead().batches(stream()):
        assert 1 <= len(batch) <= MOST_AHEAD
        seen += batch
        for _ in range(10):
            await asyncio.sleep(0)  # the stream goes on meanwhile
        assert stream.taken <= len(seen) + MOST_AHEAD + 1
    assert seen == CHUNKS


async def test_an_error_of_the_stream_comes_behind_what_arrived_before() -> None:
    seen = list[bytes]()

    async def read() -> None:
        async for batch in ReadAhead().batches(Stream(ValueError("broken line"))()):
            seen.extend(batch)

    with pytest.raises(ValueError, match="broken line"):
        await read()
    assert seen == CHUNKS


async def test_who_stops_reading_lets_go_of_the_stream() -> None:
    for error in (None, ValueError("nobody hears of it")):
        stream = Stream(error)
        async with aclosing(ReadAhead().batches(stream())) as arriving:
            await anext(arriving)
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_many_streams_share_what_lies_ahead_and_one_that_stands_still_holds_up_none() -> None:
    ahead, streams = ReadAhead(), [Stream() for _ in range(3 * TOGETHER)]
    still = ahead.batches(streams[0]())
    await anext(still)  # nobody writes its chunks, nor any others for now
    others = [ahead.batches(stream()) for stream in streams[1:]]
    first = [await anext(each) for each in others]
    for _ in range(20):
        await asyncio.sleep(0)
    assert sum(stream.taken for stream in streams) <= TOGETHER + len(streams)
    for start, each in zip(first, others, strict=True):
        assert start + [chunk async for batch in each for chunk in batch] == CHUNKS
    await still.aclose()


async def test_what_a_stream_lets_go_of_wakes_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    wait, waits = asyncio.Event.wait, 0

    async def counted(event: asyncio.Event) -> bool:
        nonlocal waits
        waits += 1
        return await wait(event)

    monkeypatch.setattr(asyncio.Event, "wait", counted)
    ahead, turns = ReadAhead(), asyncio.Semaphore(2)

    async def receive() -> int:
        count = 0
        async for batch in ahead.batches(Stream()()):
            async with turns:
                await asyncio.sleep(0)
            count += len(batch)
        return count

    streams = 10 * TOGETHER
    assert await asyncio.gather(*(receive() for _ in range(streams))) == [len(CHUNKS)] * streams
    assert waits <= 5 * streams * len(CHUNKS)


async def test_a_call_that_is_cancelled_twice_holds_nothing() -> None:
    async def slow_to_end() -> AsyncIterator[bytes]:
        try:
            yield CHUNKS[0]
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)

    async def receive() -> None:
        async with aclosing(ahead.batches(slow_to_end())) as arriving:
            async for _ in arriving:
                await asyncio.sleep(60)

    ahead = ReadAhead()
    calls = [asyncio.create_task(receive()) for _ in range(TOGETHER)]
    for _ in range(2):
        for _ in range(5):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
    await asyncio.wait(calls)
    stream = Stream()
    async with aclosing(ahead.batches(stream())) as arriving:
        await anext(arriving)
        for _ in range(20):
            await asyncio.sleep(0)
        assert stream.taken > 1  # it reads ahead, as nobody else holds anything
