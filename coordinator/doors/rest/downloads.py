"""Archives as answers: sent in small pieces, and cut when the job is deleted whose files they keep on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.doors import watched
from coordinator.doors.rest.connection import CUT
from coordinator.models.archive import Archive
from coordinator.state.errors import DomainError, JobNotFound

PIECE_BYTES = 2**16  # what a slow reader has to take in `STALL_S`


class Download(StreamingResponse):
    """The tar of an archive, which is closed at its end. `check` raises `JobNotFound` when there is nothing to be sent
    any more."""

    def __init__(
        self, archive: Archive, chunks: AsyncGenerator[bytes, None], check: Callable[[], Awaitable[object]]
    ) -> None:
        headers = {
            "Content-Length": str(archive.size_bytes),
            "Content-Disposition": f'attachment; filename="{archive.file_name}"',
        }
        self._archive, self._pieces, self._check = archive, _pieces(chunks), check
        super().__init__(self._pieces, media_type="application/x-tar", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(scope["state"][CUT]))
        try:
            async with aclosing(self._pieces):
                await super().__call__(scope, receive, send)
        finally:
            watching.cancel()
            self._archive.close()  # not when it is collected: until then its files, be they deleted, fill the disk

    async def _watch(self, cut: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(watched.RECHECK_S)
            try:
                await self._check()
            except JobNotFound:
                cut()
                return
            except DomainError:
                pass  # nothing is known: asked again


async def chunks_of(archive: Archive, turns: asyncio.Semaphore | None = None) -> AsyncGenerator[bytes, None]:
    """The chunks of an archive, each made in a thread when it is its turn; waiting for a turn takes no thread."""
    chunks = iter(archive)
    while True:
        async with turns or nullcontext():
            chunk = await run_in_threadpool(next, chunks, None)  # a caller that goes waits for it: it reads open files
        if chunk is None:
            return
        yield chunk


async def _pieces(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            for start in range(0, len(chunk), PIECE_BYTES):
                yield chunk[start : start + PIECE_BYTES]
