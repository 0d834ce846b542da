"""Archives as answers: whole or a part, sent in small pieces, and cut when the job is deleted whose files they keep on
the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.doors import watched
from coordinator.doors.rest import problems
from coordinator.doors.rest.connection import CUT
from coordinator.doors.rest.head import is_head
from coordinator.doors.rest.ranges import Part, wanted
from coordinator.models.archive import Archive
from coordinator.state.errors import DomainError, JobNotFound

PIECE_BYTES = 2**16  # what a slow reader has to take in `STALL_S`
Check = Callable[[], Awaitable[object]]


def answer(request: Request, archive: Archive, check: Check, turns: asyncio.Semaphore | None = None) -> Response:
    """The tar, or the part of it that is asked for. The archive is closed at the answer's end.

    Args:
        check: raises `JobNotFound` when there is nothing to be sent any more.
        turns: at most so many chunks of such archives are made at a time.
    """
    asked = dict(request.headers)
    if is_head(request.scope):
        asked.pop("range", None)  # of the whole: a part is for GET alone to ask for (RFC 9110, 14.2)
    part = wanted(asked, archive.etag, archive.size_bytes)
    headers = {"ETag": archive.etag, "Accept-Ranges": "bytes"}
    if part.status == 304:
        archive.close()
        return Response(status_code=304, headers=headers)
    if part.status == 416:
        archive.close()
        headers["Content-Range"] = f"bytes */{archive.size_bytes}"
        detail = f"Range: begins behind the end of the {archive.size_bytes} bytes; ask from an earlier byte on"
        return problems.problem(416, "range_not_satisfiable", detail, headers=headers)
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{archive.size_bytes}"
    return Download(archive, chunks_of(archive, turns, part.start), check, part, headers)


class Download(StreamingResponse):
    """A part of the tar of an archive, which is closed at its end."""

    def __init__(
        self, archive: Archive, chunks: AsyncGenerator[bytes, None], check: Check, part: Part, headers: dict[str, str]
    ) -> None:
        """`chunks` begin where the part does."""
        headers = headers | {
            "Content-Length": str(part.stop - part.start),
            "Content-Disposition": f'attachment; filename="{archive.file_name}"',
        }
        self._archive, self._pieces, self._check = archive, _pieces(chunks, part.stop - part.start), check
        super().__init__(self._pieces, part.status, media_type="application/x-tar", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(scope["state"][CUT]))
        try:
            async with aclosing(self._pieces):
                if is_head(scope):
                    await Response(status_code=self.status_code, headers=dict(self.headers))(scope, receive, send)
                else:
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


async def chunks_of(
    archive: Archive, turns: asyncio.Semaphore | None = None, skip: int = 0
) -> AsyncGenerator[bytes, None]:
    """The chunks of an archive behind its first `skip` bytes, each made in a thread when it is its turn; waiting for a
    turn takes no thread."""
    chunks = archive.read(skip)
    while True:
        async with turns or nullcontext():
            chunk = await run_in_threadpool(next, chunks, None)  # a caller that goes waits for it: it reads open files
        if chunk is None:
            return
        yield chunk


async def _pieces(chunks: AsyncGenerator[bytes, None], left: int) -> AsyncGenerator[bytes, None]:
    """The first `left` bytes of the chunks."""
    async with aclosing(chunks):
        async for chunk in chunks:
            for start in range(0, min(left, len(chunk)), PIECE_BYTES):
                yield chunk[start : min(start + PIECE_BYTES, left)]
            left -= len(chunk)
            if left <= 0:
                return
