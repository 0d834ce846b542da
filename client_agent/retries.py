"""Which failures of a call pass by themselves, and for how long it is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from tenacity import RetryCallState
from tenacity.stop import stop_base

_Status = grpc.StatusCode
# INTERNAL, UNKNOWN: a broken stream or a crash in a handler. CANCELLED: the server shuts down. OUT_OF_RANGE: an upload
# goes on elsewhere by now. ABORTED: the connection that broke still holds the upload.
_TRANSIENT = {
    _Status.UNAVAILABLE,
    _Status.DEADLINE_EXCEEDED,
    _Status.INTERNAL,
    _Status.UNKNOWN,
    _Status.CANCELLED,
    _Status.OUT_OF_RANGE,
    _Status.ABORTED,
}


T = TypeVar("T")


class BrokenTransfer(Exception):
    """A stream ended early or delivered other bytes; worth another attempt."""


class Patience(stop_base):
    """Ends the retries when nothing has moved for `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._furthest = -1
        self._since = time.monotonic()

    def reached(self, position: int) -> None:
        """Notes bytes that were never reached before as a sign of life."""
        if position > self._furthest:
            self._furthest, self._since = position, time.monotonic()

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() - self._since >= self._limit_s


async def within(limit_s: float, answer: Awaitable[T]) -> T:
    """`asyncio.wait_for`, which before Python 3.12 may lose a cancellation.

    Raises:
        TimeoutError: nothing came for `limit_s` seconds.
    """
    async with asyncio.timeout(limit_s):
        return await answer


def words(error: BaseException | None) -> str:
    """An error for people: the coordinator's words where it has some."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) or type(error).__name__


def passes(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _TRANSIENT
    return isinstance(error, TimeoutError | BrokenTransfer)
