"""Archives as answers: sent in small pieces, and cut when the job is deleted whose files they keep on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.doors import watched
from coordinator.doors.rest.connection import CUT
from coordinator.models.archive import Archive
from coordinator.state.errors import DomainError, JobNotFound

PIECE_BYTES = 2**16  # what a slow reader has to take in `STALL_S`


class Download(StreamingResponse):
    """The tar of an archive. `check` raises `JobNotFound` when there is nothing to be sent any more."""

    def __init__(self, archive: Archive, chunks: AsyncIterable[bytes], check: Callable[[], Awaitable[object]]) -> None:
        headers = {
            "Content-Length": str(archive.size_bytes),
            "Content-Disposition": f'attachment; filename="{archive.file_name}"',
        }
        super().__init__(_pieces(chunks), media_type="application/x-tar", headers=headers)
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(scope["state"][CUT]))
        try:
            await super().__call__(scope, receive, send)
        finally:
            watching.cancel()

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


async def _pieces(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
