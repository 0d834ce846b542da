"""Who changed or took what, on Redis: an entry for each such request of the people's door, refused ones included.

| key               | type   | what                                                                              |
|-------------------|--------|-----------------------------------------------------------------------------------|
| `audit`           | stream | requests of known callers: the fields of `Entry`                                  |
| `audit:strangers` | stream | requests without a known key: by themselves, so that they push nothing else out   |

Entries are added and never changed; of each stream the newest are kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from coordinator.store.redis_connection import RedisConnection


@dataclass(frozen=True)
class Entry:
    """A request. `key`, `name` and `role` are empty where nobody is asked for a key, and the latter two of strangers.

    `outcome`: the HTTP status; with ` cut` where the answer did not arrive whole.
    """

    key: str
    name: str
    role: str
    address: str
    method: str
    path: str
    outcome: str
    sent_bytes: int


@dataclass(frozen=True)
class Recorded:
    """An entry with its id in the stream, which begins with the time in milliseconds since the epoch."""

    id: str
    entry: Entry

    @property
    def at(self) -> float:
        """Seconds since the epoch."""
        return int(self.id.partition("-")[0]) / 1000


class AuditTrail:
    """Every method raises `StateUnavailable` when Redis does not answer."""

    def __init__(self, connection: RedisConnection, most: int) -> None:
        """`most`: entries that are kept of each stream, about."""
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._most = most

    async def add(self, entry: Entry, *, stranger: bool) -> None:
        fields = {name: str(value) for name, value in asdict(entry).items()}
        await self._ask(self._redis.xadd(self._stream(stranger), fields, maxlen=self._most, approximate=True))  # type: ignore[arg-type]

    async def page(self, after: str | None, limit: int, *, strangers: bool) -> list[Recorded]:
        """Entries, newest first; `after`: the id of the last entry of the page before."""
        highest = f"({after}" if after else "+"
        rows = await self._ask(self._redis.xrevrange(self._stream(strangers), highest, "-", count=limit))
        return [
            Recorded(entry_id, Entry(**{**fields, "sent_bytes": int(fields["sent_bytes"])}))
            for entry_id, fields in rows
        ]

    def _stream(self, strangers: bool) -> str:
        return self._key("audit:strangers" if strangers else "audit")
