"""Large downloads from the coordinator's bucket itself, by URLs that the coordinator has signed for a few minutes.

Only from hosts that the site has named, and in plaintext only where the line to the coordinator is. What fails is
fetched through the coordinator.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import BinaryIO

import structlog

from client_agent.progress import Progress
from fedgalore.process.faults import Fault, reach

AGAIN_S = 600.0  # for so long after a failure, all comes through the coordinator
STALL_S = 60.0  # in which nothing comes
_CHUNK_BYTES = 2**20
_log = structlog.get_logger(__name__)


class Direct:
    """The way to a bucket, as long as it works."""

    def __init__(self, hosts: Collection[str], plaintext: bool) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)  # as a URL has them
        self._schemes = ("http", "https") if plaintext else ("https",)
        self._not_before = 0.0  # by the monotonic clock

    @property
    def is_open(self) -> bool:
        """Whether a URL is worth asking for."""
        return bool(self._hosts) and time.monotonic() >= self._not_before

    async def fetch(self, url: str, file: BinaryIO, size_bytes: int, progress: Progress) -> None:
        """Appends to the file what it lacks of a blob of this size. Nobody has looked at the content yet.

        Where that fails, the way is shut for some time, and the file has what has come so far.
        """
        import httpx

        try:
            place = httpx.URL(url)
            if place.scheme not in self._schemes or place.host not in self._hosts:
                self._shut(place.host, f"{place.scheme}://{place.host} is not among direct_hosts, or is not encrypted")
                return
            offset = file.tell()
            headers = {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
            async with httpx.AsyncClient(timeout=STALL_S) as http, http.stream("GET", url, headers=headers) as answer:
                is_rest = answer.headers.get("content-range", "").startswith(f"bytes {offset}-")
                if not (answer.status_code == 206 and is_rest) and not (answer.status_code == 200 and not offset):
                    self._shut(place.host, f"it answers {answer.status_code} {answer.reason_phrase}")
                    return
                async for chunk in answer.aiter_raw(_CHUNK_BYTES):
                    file.write(chunk)
                    reach(Fault.CHUNK_RECEIVED)
                    progress.reached(file.tell())
                    if file.tell() > size_bytes:  # which its hash will show
                        return
            if file.tell() < size_bytes:
                self._shut(place.host, "the download ended early")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._shut("", str(error) or type(error).__name__)

    def distrust(self) -> None:
        """What came has another content than it should; it may have come from here."""
        if self.is_open:
            self._shut("", "what arrived has another content")

    def _shut(self, host: str, reason: str) -> None:
        self._not_before = time.monotonic() + AGAIN_S
        _log.warning("direct_download_failed", host=host, reason=reason, again_in_s=AGAIN_S)
