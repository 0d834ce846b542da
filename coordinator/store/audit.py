"""Who changed or took what, on Redis: an entry for each such call of either door, refused ones included.

| key               | type   | what                                                                              |
|-------------------|--------|-----------------------------------------------------------------------------------|
| `audit`           | stream | requests of people with a known key: the fields of `Entry`                        |
| `audit:agents`    | stream | calls of agents that have shown who they are                                      |
| `audit:strangers` | stream | what showed no known key, at either door                                          |

They are three so that none pushes another's entries out. Entries are added and never changed; of each stream the newest
are kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from coordinator.store.gathering import Gathering
from coordinator.store.redis_connection import RedisConnection


class Whose(StrEnum):
    """By whom an entry came about, which says in which stream it is."""

    PEOPLE = "people"
    AGENTS = "agents"
    STRANGERS = "strangers"


@dataclass(frozen=True)
class Entry:
    """A request of the people's door, or a call of the agents' door.

    `key`: the id of an API key; of an agent, how its key's SHA-256 begins; empty where nobody is asked for a key.
    `name`: of the key; of an agent, the client that it is or, among strangers, says that it is.
    `role`: `viewer`, `operator` or `agent`; empty of strangers.
    `outcome`: the HTTP status, with ` cut` where the answer did not arrive whole; the status of gRPC, `CANCELLED` where
    the call broke.
    `sent_bytes`, `received_bytes`: of bodies, models and updates, by the coordinator.
    `left_out`: entries of this client that the log alone has, since its entry before: it called too often.
    """

    key: str
    name: str
    role: str
    address: str
    method: str
    path: str
    outcome: str
    sent_bytes: int = 0
    received_bytes: int = 0
    left_out: int = 0


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
    """Every method raises `StateUnavailable` when Redis does not answer. Belongs to one event loop."""

    def __init__(self, connection: RedisConnection, most: int) -> None:
        """`most`: entries that are kept of each stream, about."""
        self._redis, self._key, self._ask = connection.redis, connection.key, connection.ask
        self._most = most
        self._adding: Gathering[tuple[Whose, Entry], None] = Gathering(self._added)

    async def add(self, entry: Entry, whose: Whose) -> None:
        await self._adding((whose, entry))

    async def page(self, after: str | None, limit: int, whose: Whose) -> list[Recorded]:
        """Entries, newest first; `after`: the id of the last entry of the page before."""
        highest = f"({after}" if after else "+"
        rows = await self._ask(self._redis.xrevrange(self._stream(whose), highest, "-", count=limit))
        return [Recorded(entry_id, _entry(fields)) for entry_id, fields in rows]

    async def _added(self, entries: list[tuple[Whose, Entry]]) -> list[None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for whose, entry in entries:
                fields = {name: str(value) for name, value in asdict(entry).items()}
                pipe.xadd(self._stream(whose), fields, maxlen=self._most, approximate=True)  # type: ignore[arg-type]
            await self._ask(pipe.execute())
        return [None] * len(entries)

    def _stream(self, whose: Whose) -> str:
        return self._key("audit" if whose is Whose.PEOPLE else f"audit:{whose}")


def _entry(fields: dict[str, str]) -> Entry:
    numbers = {name: int(fields.get(name, 0)) for name in ("sent_bytes", "received_bytes", "left_out")}
    return Entry(**{**fields, **numbers})  # type: ignore[arg-type]
