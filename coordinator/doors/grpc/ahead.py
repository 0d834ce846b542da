"""A stream that is read ahead: the next chunks arrive while the last ones are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

MOST_AHEAD = 2  # chunks; as many more may be in hand


async def batches(chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    """What has arrived since the batch before, one chunk at least. To be closed where it is not read to its end.

    Raises:
        Exception: what the stream raises, once the chunks before are out.
    """
    arrived: deque[bytes] = deque()
    news, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async for chunk in chunks:
            while len(arrived) >= MOST_AHEAD:
                room.clear()
                await room.wait()
            arrived.append(chunk)
            news.set()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: news.set())
    try:
        while arrived or not reader.done():
            await news.wait()
            news.clear()
            batch = list(arrived)
            arrived.clear()
            room.set()
            if batch:
                yield batch
        reader.result()
    finally:
        reader.cancel()
        await asyncio.wait([reader])
