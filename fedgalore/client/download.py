"""A download over as many connections as it takes: what broke goes on at its last byte, where the coordinator can."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fedgalore.client import archive
from fedgalore.client.answers import being_made, error, reaching
from fedgalore.client.errors import BadDownload, ClientError, Unreachable
from fedgalore.client.waiting import TIMEOUT_S, Patience
from fedgalore.spec.amounts import size

MOST_MADE_S = 1800.0  # that is waited for what is being made: where nobody makes it, somebody has to look
AGAIN_S = 1.0  # between requests for what is being made, or for what broke
STREAM_S = 120.0  # of silence within a download: a large matrix may have to be decomposed, or other requests come first


@dataclass(frozen=True)
class Hooks:
    """What a caller hears of a download.

    `on_progress`: bytes that have come, and all bytes, None where nobody knows. `on_wait`: in words, once, what is
    being made first. `stopping`: set to end the download early.
    """

    on_progress: Callable[[int, int | None], None] | None = None
    on_wait: Callable[[str], None] | None = None
    stopping: threading.Event = field(default_factory=threading.Event)


class Either(threading.Event):
    """Set as soon as it is set itself, or the other event is. To set it leaves the other as it is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """The other one is looked at when the time is over."""
        return super().wait(timeout) or self.is_set()


def download(http: httpx.Client, url: str, path: str, params: dict[str, Any], to: Path, hooks: Hooks) -> None:
    """Unpacks the tar at this path into the new folder `to`, which appears whole or not at all.

    Raises:
        Refused, Unreachable: there is nothing to fetch, or nobody to fetch it from.
        BadDownload: it is no plain folder, or broke for good.
        WrongArgument: `to` cannot be made.
    """
    with contextlib.closing(_Transfer(http, url, path, params, hooks).chunks()) as chunks:
        archive.unpack(chunks, to)


class _Transfer:
    def __init__(self, http: httpx.Client, url: str, path: str, params: dict[str, Any], hooks: Hooks) -> None:
        self._http, self._url, self._path, self._params, self._hooks = http, url, path, params, hooks
        self._got = 0
        self._all: int | None = None
        self._tag: str | None = None  # of what is fetched, where the coordinator can go on within it
        self._patience = Patience()
        self._begun = time.monotonic()
        self._told = False

    def chunks(self) -> Generator[bytes, None, None]:
        """All bytes, in order."""
        while True:
            pause_s = AGAIN_S
            try:
                with reaching(self._url), self._opened() as answer:
                    if not answer.is_success:
                        answer.read()
                        pause_s = self._first_made(answer)
                    else:
                        self._begin(answer)
                        yield from self._body(answer)
                        return
            except Unreachable as broken:
                self._bear(broken)
            if self._hooks.stopping.wait(pause_s):
                raise BadDownload("the download was stopped; nothing was kept")

    def _opened(self) -> contextlib.AbstractContextManager[httpx.Response]:
        headers = {"Accept-Encoding": "identity"}  # a range counts the bytes that travel
        if self._got and self._tag is not None:
            headers |= {"Range": f"bytes={self._got}-", "If-Range": self._tag}
        patience = httpx.Timeout(TIMEOUT_S, read=STREAM_S)
        return self._http.stream("GET", self._path, params=self._params, headers=headers, timeout=patience)

    def _first_made(self, answer: httpx.Response) -> float:
        """Seconds until it is worth asking again for what is being made.

        Raises:
            ClientError: what the answer says, where it is something else, or has said so for `MOST_MADE_S`.
        """
        if (words := being_made(answer)) is None:
            raise error(answer, self._url)
        if not self._told and self._hooks.on_wait is not None:
            self._hooks.on_wait(words)
        self._told = True
        if time.monotonic() - self._begun > MOST_MADE_S:
            raise error(answer, self._url)
        self._patience.heard()
        return float(answer.headers.get("retry-after", AGAIN_S))

    def _begin(self, answer: httpx.Response) -> None:
        if self._got:
            start = answer.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
            fits = start == str(self._got) and answer.headers.get("etag") == self._tag  # whatever a cache makes of it
            if answer.status_code != httpx.codes.PARTIAL_CONTENT or not fits:
                raise BadDownload("what is downloaded has changed meanwhile; nothing was kept, so try again")
            return
        length = answer.headers.get("content-length")
        self._all = int(length) if length is not None else None
        if answer.headers.get("accept-ranges") == "bytes":
            self._tag = answer.headers.get("etag")

    def _body(self, answer: httpx.Response) -> Iterator[bytes]:
        for chunk in answer.iter_raw():
            if self._hooks.stopping.is_set():
                raise BadDownload("the download was stopped; nothing was kept")
            self._patience.heard()
            self._got += len(chunk)
            if self._hooks.on_progress is not None:
                self._hooks.on_progress(self._got, self._all)
            yield chunk

    def _bear(self, broken: ClientError) -> None:
        """Raises what the line's end means, where the download cannot go on."""
        if not self._got and self._tag is None and not self._told:
            raise broken
        if self._got and self._tag is None:
            done = f"{size(self._got)}{f' of {size(self._all)}' if self._all is not None else ''}"
            why = str(broken.__cause__ or broken)
            raise BadDownload(f"the download broke after {done} ({why}); nothing was kept, so try again") from broken
        if isinstance(broken, Unreachable):
            self._patience.lost(broken)
