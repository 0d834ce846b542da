"""Where Redis is, as `redis_url` says it: one server, the master that sentinels name, or a node of a Redis Cluster.

    redis://[user:password@]host:port/database      one server; `rediss` is the same over TLS, `unix` a socket
    redis+sentinel://host:port,host:port/master     the server that these sentinels call the master of that name
    redis+cluster://host:port,host:port             of a Redis Cluster, the master of the slot that all keys are in

`rediss+sentinel` and `rediss+cluster` speak TLS with everybody. Behind a `?` there may be `replicas`, how many replicas
must have a write before it counts; `sentinel_username` and `sentinel_password`, where sentinels ask for a login of
their own; and options of redis-py, such as `ssl_ca_certs=/etc/redis/ca.pem`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from fedgalore.process.address import check_url

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
PORT = 6379
SENTINEL_PORT = 26379
TLS_OPTIONS = frozenset({"ca_certs", "ca_path", "certfile", "keyfile", "password", "check_hostname", "cert_reqs"})
LINE_OPTIONS = frozenset({"socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"})
OPTIONS = LINE_OPTIONS | {"username", "password", "db", "client_name", "protocol", "max_connections"}
OPTIONS |= {f"ssl_{name}" for name in TLS_OPTIONS}
Kind = Literal["server", "sentinel", "cluster"]


@dataclass(frozen=True)
class RedisAddress:
    """`server`: the URL of one server, as redis-py reads it; only its login, database and options count where the kind
    is another. `nodes`: sentinels, or nodes of the cluster. `replicas`: how many must have a write before it counts."""

    kind: Kind
    server: str
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    replicas: int = 0
    sentinel_login: tuple[str | None, str | None] = (None, None)

    @property
    def is_tls(self) -> bool:
        return self.server.startswith("rediss:")

    @property
    def fails_over(self) -> bool:
        """Whether another server may take the place of this one."""
        return self.kind != "server"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """What a URL says.

        Raises:
            ValueError: in one sentence, with the right form.
        """
        scheme, _, rest = url.partition("://")
        scheme, _, kind = scheme.lower().partition("+")
        bare, _, query = rest.partition("?")
        if "@" in "".join(re.split(r"[/?#]", rest, maxsplit=1)[1:]):
            raise ValueError("has a password with /, ?, # or @ in it: write those as %2F, %3F, %23 and %40")
        options = dict(parse_qsl(query, keep_blank_values=True))
        replicas = options.pop("replicas", "0")
        if not re.fullmatch(r"[0-9]", replicas, re.ASCII):
            raise ValueError(f"has {replicas[:64]!r} for replicas; write a number from 0 to 9, such as replicas=1")
        login = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
        _check_options(options, scheme)
        after = f"?{urlencode(options)}" if options else ""
        _check_values(after)
        if kind == "":
            if scheme != "unix":
                _check_server(f"{scheme}://{bare}")
            return cls("server", f"{scheme}://{bare}{after}", replicas=int(replicas))
        if kind not in ("sentinel", "cluster") or scheme not in ("redis", "rediss"):
            raise ValueError(f"starts with {scheme}+{kind}://; write one of {', '.join(SCHEMES)} before ://")
        named, _, path = bare.partition("/")
        user, at, hosts = named.rpartition("@")
        port = SENTINEL_PORT if kind == "sentinel" else PORT
        nodes = tuple(_node(host, port) for host in hosts.split(","))
        master, database = _path(kind, path, url)
        server = f"{scheme}://{user}{at}{hosts.split(',')[0]}/{database}{after}"
        return cls("sentinel" if kind == "sentinel" else "cluster", server, nodes, master, int(replicas), login)


def _check_server(url: str) -> None:
    check_url(url, ("redis", "rediss"), PORT)
    database = urlsplit(url).path.strip("/")
    if not re.fullmatch(r"[0-9]*", database, re.ASCII):
        raise ValueError(
            f"has {database[:64]!r} where the number of a database belongs; write it such as redis://host:6379/0"
        )


def _check_values(query: str) -> None:
    from redis.asyncio.connection import parse_url

    try:
        parse_url(f"rediss://host{query}")
    except ValueError as error:
        raise ValueError(f"has an option with a value that it cannot have ({error}); correct or remove it") from None


def _check_options(options: Mapping[str, str], scheme: str) -> None:
    if unknown := sorted(options.keys() - OPTIONS):
        known = ", ".join(sorted(OPTIONS | {"replicas", "sentinel_username", "sentinel_password"}))
        raise ValueError(f"has the option {unknown[0][:64]!r}, which is unknown; known: {known}")
    if scheme != "rediss" and (of_tls := sorted(name for name in options if name.startswith("ssl_"))):
        raise ValueError(f"has {of_tls[0]} and speaks no TLS; write rediss in place of redis")


def _node(text: str, port: int) -> tuple[str, int]:
    check_url(f"redis://{text.strip()}", ("redis",), port)
    parts = urlsplit(f"redis://{text.strip()}")
    return parts.hostname or "", parts.port or port


def _path(kind: str, path: str, url: str) -> tuple[str, str]:
    """The master's name and the database that stand behind the hosts."""
    if kind == "cluster":
        if path.strip("/") not in ("", "0"):
            raise ValueError(
                f"has {path[:64]!r} behind the hosts, and a Redis Cluster has database 0 alone; leave it out"
            )
        return "", "0"
    master, _, database = path.strip("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", master, re.ASCII) or not re.fullmatch(r"[0-9]*", database, re.ASCII):
        raise ValueError(
            "does not name the master as its sentinels do; write it such as "
            "redis+sentinel://host:26379,host:26379/mymaster, with /0 behind it for a database"
        )
    return master, database or "0"
