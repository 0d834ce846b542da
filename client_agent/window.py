"""How much of an upload may be under way, so that no more than a few seconds of it lie in the buffers of a line.

What lies there delays everything that follows it on the connection, such as heartbeats, and is sent again when the line
breaks. The window grows while acknowledgements come at once, and shrinks while they take long.
"""

from __future__ import annotations

from collections import deque

from protos import CHUNK_BYTES

FIRST_BYTES = 2**15
LEAST_BYTES = 2**13
MOST_BYTES = 2**24
QUICK_S = 0.5  # a chunk that is acknowledged sooner leaves room for more
SLOW_S = 2.0


class Window:
    """Counts the bytes under way from `start` on. Times are seconds of any clock that only goes forward."""

    def __init__(self, start: int) -> None:
        self._size = FIRST_BYTES
        self._sent = self._acknowledged = start
        self._chunks: deque[tuple[int, float]] = deque()  # the end of each chunk under way, and when it was sent
        self._changed_at = start  # only what is sent after a change says whether it was right

    @property
    def next_chunk(self) -> int:
        """Bytes to send next; 0: wait for an acknowledgement."""
        room = self._acknowledged + self._size - self._sent
        chunk = min(self._size // 4, CHUNK_BYTES)
        return chunk if room >= chunk else 0

    def sent(self, size: int, now: float) -> None:
        """Notes a chunk that was sent."""
        self._sent += size
        self._chunks.append((self._sent, now))

    def acknowledged(self, position: int, now: float) -> None:
        """Notes that all bytes before `position` have arrived."""
        self._acknowledged = position
        while self._chunks and self._chunks[0][0] <= position:
            end, at = self._chunks.popleft()
            if end > self._changed_at:
                self._adapt(now - at)

    def _adapt(self, took_s: float) -> None:
        size = 2 * self._size if took_s < QUICK_S else self._size // 2 if took_s > SLOW_S else self._size
        size = max(LEAST_BYTES, min(size, MOST_BYTES))
        if size != self._size:
            self._size, self._changed_at = size, self._sent
