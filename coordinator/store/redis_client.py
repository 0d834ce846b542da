"""A client of redis-py for a `redis_url`: it finds the master, and finds it again after a failover.

Sentinels and nodes of a cluster are asked for the master's address whenever a connection is made, so pipelines,
transactions, scripts and subscriptions are those of one server. In a cluster all keys are in one slot, by the hash tag
of their prefix: each step of a job moves keys of several kinds at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected

from coordinator.store.redis_address import RedisAddress

ASK_S = 1.0  # a sentinel or node that does not answer so soon is passed over
PREFIX = "fedgalore"
_ELSEWHERE = (ReadOnlyError, AskError, ClusterDownError, TryAgainError)  # a MOVED is an AskError


def key_prefix(address: RedisAddress, prefix: str = PREFIX) -> str:
    """What every key begins with: in a cluster a hash tag, which puts all of them into one slot."""
    return f"{{{prefix}}}" if address.kind == "cluster" else prefix


def client_at(address: RedisAddress, prefix: str = PREFIX, **options: Any) -> Redis:
    """A client of the master at the address.

    Args:
        prefix: of the keys; in a cluster it says in which slot they are.
        options: of redis-py's connections and of its blocking pool; those of the URL take their place.
    """
    given: dict[str, Any] = {"decode_responses": True, **options, **parse_url(address.server)}
    if not address.fails_over:
        return Redis.from_pool(BlockingConnectionPool(**given))
    given["connection_class"] = _TlsToMaster if address.is_tls else _ToMaster
    to_nodes = {name: value for name, value in given.items() if name.startswith("ssl_")}
    to_nodes |= {"ssl": address.is_tls, "socket_timeout": ASK_S, "socket_connect_timeout": ASK_S}
    to_nodes |= {"decode_responses": True, "retry": Retry(NoBackoff(), 0)}
    if address.kind == "sentinel":
        user, password = address.sentinel_login
        finder: _Sentinels | _Nodes = _Sentinels(address, {**to_nodes, "username": user, "password": password})
    else:
        login = {name: value for name, value in given.items() if name in ("username", "password")}
        finder = _Nodes(address, key_slot(f"{key_prefix(address, prefix)}:".encode()), {**to_nodes, **login})
    return Redis.from_pool(_MasterPool(finder, **given))


class _Sentinels:
    """Asks sentinels who is the master of a name."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        self._master = address.master
        self._asked = ", ".join(f"{host}:{port}" for host, port in address.nodes)
        self._sentinels = Sentinel(list(address.nodes), sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    async def find(self) -> tuple[str, int]:
        """Raises `NotConnected` where none of them knows one."""
        try:
            host, port = await self._sentinels.discover_master(self._master)
        except NotConnected as error:  # its words name every setting of each connection
            raise NotConnected(f"no sentinel knows a master {self._master} that is up; asked: {self._asked}") from error
        return str(host), int(port)

    async def close(self) -> None:
        for sentinel in self._sentinels.sentinels:
            await sentinel.aclose()


class _Nodes:
    """Asks nodes of a cluster who is the master of a slot."""

    def __init__(self, address: RedisAddress, slot: int, options: dict[str, Any]) -> None:
        self._slot = slot
        self._nodes = [Redis(host=host, port=port, **options) for host, port in address.nodes]

    async def find(self) -> tuple[str, int]:
        """Raises `NotConnected` where none of them knows one."""
        problems = []
        for node in list(self._nodes):
            try:
                facts = await node.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
                ranges = await node.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                problems.append(str(error))
                continue
            if facts["cluster_state"] != "ok":  # cut off from the others, it still takes itself for the master
                problems.append("one is cut off from the others")
                continue
            self._nodes.sort(key=lambda each: each is not node)  # who answers is asked first the next time
            for first, last, (host, port, *_), *_replicas in ranges:
                if first <= self._slot <= last:
                    return str(host or node.connection_pool.connection_kwargs["host"]), int(port)
            problems.append(f"slot {self._slot} is nobody's")
        raise NotConnected(f"no node of the cluster knows a master ({'; '.join(problems)})")

    async def close(self) -> None:
        for node in self._nodes:
            await node.aclose()


class _MasterPool(BlockingConnectionPool):
    """Its connections lead to whoever is the master when they are made."""

    def __init__(self, finder: _Sentinels | _Nodes, **options: Any) -> None:
        super().__init__(find=finder.find, **options)
        self._finder = finder

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        await self._finder.close()


class _AtMaster:
    """Finds the master before it connects; leaves a server that is the master no more."""

    host: str
    port: int

    def __init__(self, find: Callable[[], Awaitable[tuple[str, int]]], **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except _ELSEWHERE as error:
            await self.disconnect()  # type: ignore[attr-defined]
            raise NotConnected(f"{self.host}:{self.port} is not the master ({error})") from error


class _ToMaster(_AtMaster, Connection):
    """In plaintext."""


class _TlsToMaster(_AtMaster, SSLConnection):
    """Over TLS."""
