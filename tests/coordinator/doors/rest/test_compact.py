"""Answers that are made small, and those that pass as they are."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from coordinator.doors.rest.compact import LEAST_BYTES, Compact

TEXT = b"a" * LEAST_BYTES


async def answered(
    pieces: list[bytes], kind: bytes, method: str = "GET", **headers: str
) -> tuple[dict[bytes, bytes], bytes]:
    """Head and body of what an application's answer in these pieces becomes."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", kind), (b"content-length", str(sum(map(len, pieces))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})

    async def send(message: Any) -> None:
        sent.append(message)

    asked = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/api/v1/jobs", "headers": asked}
    await Compact(app)(scope, None, send)  # type: ignore[arg-type]
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


async def test_a_whole_text_is_compressed() -> None:
    head, body = await answered([TEXT], b"application/json", accept_encoding="gzip")
    assert (head[b"content-encoding"], gzip.decompress(body)) == (b"gzip", TEXT)
    assert int(head[b"content-length"]) == len(body) < LEAST_BYTES


@pytest.mark.parametrize(
    ("pieces", "kind", "method"),
    [
        ([TEXT, TEXT], b"application/json", "GET"),
        ([TEXT], b"application/x-tar", "GET"),
        ([TEXT], b"application/json", "POST"),
        ([TEXT[1:]], b"application/json", "GET"),
    ],
    ids=["in pieces", "a model", "of a POST, which may hold a secret", "too short"],
)
async def test_other_answers_pass_as_they_are(pieces: list[bytes], kind: bytes, method: str) -> None:
    head, body = await answered(pieces, kind, method, accept_encoding="gzip")
    assert (b"content-encoding" in head, body) == (False, b"".join(pieces))
    assert int(head[b"content-length"]) == len(body)
