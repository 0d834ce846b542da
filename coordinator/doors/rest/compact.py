"""Texts as few bytes: not sent again to who has them, and compressed for who takes that. Models go as they are."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.doors.rest.ranges import knows

LEAST_BYTES = 2048  # below, a head is as large as what is saved
LARGE_BYTES = 2**16  # compressed in a thread
LEVEL = 5
TEXTS = ("application/json", "image/svg+xml", "text/css", "text/csv", "text/html", "text/javascript", "text/plain")
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[0-9.]+)\s*)?(?=,|$)", re.IGNORECASE)


def takes_gzip(accept_encoding: str) -> bool:
    match = _GZIP.search(accept_encoding)
    return match is not None and (match["q"] is None or match["q"].strip("0.") != "")


class Compact:
    """ASGI middleware for answers to GET that come whole: an ETag and 304 for those of the API, and gzip.

    Streams pass, and so do answers to other methods: those of a POST may hold a secret beside what a caller wrote, and
    the size of the two together would tell of it (BREACH).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        asked, held = Headers(scope=scope), None

        async def compacted(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _is_whole_text(message):
                held = message  # until its body is there
                return
            if held is not None:
                start, held = held, None
                if not message.get("more_body", False):  # else it comes in pieces after all
                    body = message.get("body", b"")
                    is_api = scope["path"].startswith("/api/")
                    message = {**message, "body": await _compact(start, body, asked, is_api=is_api)}
                await send(start)
            await send(message)

        await self._app(scope, receive, compacted)


def _is_whole_text(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return "content-length" in headers and headers.get("content-type", "").startswith(TEXTS)


async def _compact(start: Message, body: bytes, asked: Headers, *, is_api: bool) -> bytes:
    """What is sent of the body; changes the head accordingly."""
    headers = MutableHeaders(raw=start["headers"])
    if is_api and start["status"] == 200:
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'  # weak: compressed or not, it says the same
        headers["ETag"] = etag
        if knows(asked.get("if-none-match", ""), etag):
            start["status"] = 304
            del headers["content-length"], headers["content-type"]
            return b""
    if len(body) < LEAST_BYTES:
        return body
    headers.add_vary_header("Accept-Encoding")
    if not takes_gzip(asked.get("accept-encoding", "")):
        return body
    small = await asyncio.to_thread(_gzip, body) if len(body) > LARGE_BYTES else _gzip(body)
    headers["Content-Encoding"], headers["Content-Length"] = "gzip", str(len(small))
    return small


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)
