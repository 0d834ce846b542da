"""Streams that are read ahead: the next chunks arrive while the last ones are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from coordinator.doors.limits import STALL_S
from coordinator.state.errors import InvalidRequest, Stalled
from protos import CHUNK_BYTES
from protos import federation_pb2 as pb

MOST_AHEAD = 2  # chunks of a stream, before the next is asked for; as many more may be in hand
TOGETHER = 8  # of all streams; each may hold one whatever the others do, so that none waits for a slow line


class ReadAhead:
    """Streams of one process, which share the chunks that may be in memory: many lines take little more than few."""

    def __init__(self) -> None:
        self._held = 0
        self._standing: set[asyncio.Event] = set()  # the rooms of streams that wait to go on; each holds a chunk

    async def batches(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
        """What has arrived since the batch before, one chunk at least. To be closed where it is not read to its end.

        Raises:
            Exception: what the stream raises, once the chunks before are out.
        """
        arrived: deque[bytes] = deque()
        in_hand: list[bytes] = []
        news, room = asyncio.Event(), asyncio.Event()

        def is_full() -> bool:
            return len(arrived) >= MOST_AHEAD or (bool(arrived or in_hand) and self._held >= TOGETHER)

        async def read() -> None:
            async for chunk in chunks:
                arrived.append(chunk)
                self._held += 1
                news.set()
                while is_full():
                    await self._stand(room)

        reader = asyncio.create_task(read())
        reader.add_done_callback(lambda _: news.set())
        try:
            while arrived or not reader.done():
                await news.wait()
                news.clear()
                in_hand.extend(arrived)
                arrived.clear()
                if in_hand:
                    room.set()
                    yield list(in_hand)
                    self._release(len(in_hand))
                    in_hand.clear()
                    room.set()
            reader.result()
        finally:
            reader.cancel()
            try:
                await asyncio.wait([reader])
            finally:  # of a call that is cancelled once more, too: what it holds, others lack
                self._release(len(arrived) + len(in_hand))

    async def _stand(self, room: asyncio.Event) -> None:
        room.clear()
        self._standing.add(room)
        try:
            await room.wait()
        finally:
            self._standing.discard(room)

    def _release(self, count: int) -> None:
        self._held -= count
        if self._held < TOGETHER:  # so fewer than that are standing; else a thousand would wake up for nothing
            for room in self._standing:
                room.set()


async def chunks(requests: AsyncIterator[pb.SubmitUpdateRequest]) -> AsyncIterator[bytes]:
    """What follows an update's header.

    Raises:
        InvalidRequest: a message without a chunk, or with too long a one.
        Stalled: nothing came for `STALL_S`.
    """
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                message = await anext(requests, None)
        except TimeoutError:
            raise Stalled(f"nothing of the update came for {STALL_S:.0f} s; go on where it ended") from None
        if message is None:
            return
        if message.WhichOneof("part") != "chunk":
            raise InvalidRequest("chunk: missing; after the header, every message holds a chunk")
        if len(message.chunk) > CHUNK_BYTES:
            raise InvalidRequest(f"chunk: has {len(message.chunk)} bytes; send at most {CHUNK_BYTES} in a message")
        yield message.chunk
