"""Redis-protocol servers that stand in for each other: under sentinels, in a cluster; and one behind TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from fedgalore.process.redis_server import RedisServer, find_binary, free_port

MASTER = "fed"
AT_ONCE = ["--repl-diskless-sync-delay", "0"]  # a replica need not wait for others that may come
DOWN_MS = 700  # a server that is silent for so long counts as dead
LONG_S = 30.0


@dataclass
class Group:
    """Servers by port, and the URL that leads to whoever is the master."""

    url: str
    servers: dict[int, RedisServer]
    master_port: Callable[[], int]
    sentinels: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kill_master(self) -> int:
        """Ends the master as a crash would, and waits for its successor. The dead server's port."""
        port = self.master_port()
        self.servers[port].kill()
        self.wait_for_successor(port)
        return port

    def rejoin(self, port: int) -> None:
        """Starts a server that died as the master, and has it be a replica."""
        self.servers[port].start()
        if self.sentinels:  # sentinels would do so within ten seconds
            ask(port, "REPLICAOF", "127.0.0.1", self.master_port())
        until(lambda: "master_link_status:up" in str(ask(port, "INFO", "replication")))

    def kill_replica(self) -> None:
        """Ends the master's replica as a crash would."""
        for port, server in self.servers.items():
            if "role:slave" in str(ask(port, "INFO", "replication")):
                server.kill()

    def wait_for_successor(self, port: int) -> None:
        until(lambda: self.master_port() != port)


def until(holds: Callable[[], bool]) -> None:
    """Waits; a server that does not answer yet counts as no."""
    end = time.monotonic() + LONG_S
    while True:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(port: int, *words: str | int) -> Any:
    with redis.Redis(port=port, socket_timeout=5, decode_responses=True) as client:
        client.response_callbacks.clear()  # as the server says it
        return client.execute_command(*words)


@contextmanager
def replicated(folder: Path, replicas: int = 1) -> Iterator[Group]:
    """A master, its replicas and a sentinel, whose word alone is enough here."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(folder / "a", further=AT_ONCE))
        of = ["--replicaof", "127.0.0.1", str(master.port)]
        servers = [master]
        behind = [RedisServer(folder / f"b{number}", further=[*AT_ONCE, *of]) for number in range(replicas)]
        servers += [stack.enter_context(server) for server in behind]
        for server in servers[1:]:
            until(lambda port=server.port: "master_link_status:up" in str(ask(port, "INFO", "replication")))
        port = free_port()
        config = folder / "sentinel.conf"
        lines = [
            f"port {port}",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MS}",
            f"sentinel failover-timeout {MASTER} 3000",
        ]
        config.write_text("\n".join(lines) + "\n")
        with (folder / "sentinel.log").open("ab") as log:
            sentinel = subprocess.Popen([find_binary(), str(config), "--sentinel"], stdout=log, stderr=log)
        stack.callback(sentinel.wait)
        stack.callback(sentinel.kill)

        def master_port() -> int:
            return int(ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

        until(lambda: f"slaves={replicas}" in str(ask(port, "INFO", "sentinel")))
        by_port = {server.port: server for server in servers}
        yield Group(f"redis+sentinel://127.0.0.1:{port}/{MASTER}", by_port, master_port, [sentinel])


@contextmanager
def clustered(folder: Path, slot: int) -> Iterator[Group]:
    """Three masters, which elect, and a replica of the one that has the slot."""
    further = [*AT_ONCE, "--cluster-enabled", "yes", "--cluster-node-timeout", str(2 * DOWN_MS)]
    further += ["--cluster-require-full-coverage", "no"]
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(folder / name, further=further)) for name in "abcd"]
        ports = [server.port for server in servers]
        ids = [ask(port, "CLUSTER", "MYID") for port in ports]
        for index, port in enumerate(ports):
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            ask(port, "CLUSTER", "MEET", "127.0.0.1", ports[0])
        ask(ports[0], "CLUSTER", "ADDSLOTS", slot)
        first, second, *_ = (each for each in range(3) if each != slot)  # whoever has a slot has a vote
        ask(ports[1], "CLUSTER", "ADDSLOTS", first)
        ask(ports[2], "CLUSTER", "ADDSLOTS", second)
        until(lambda: all("cluster_known_nodes:4" in str(ask(port, "CLUSTER", "INFO")) for port in ports))
        until(lambda: ask(ports[3], "CLUSTER", "REPLICATE", ids[0]) == "OK")
        until(lambda: "master_link_status:up" in str(ask(ports[3], "INFO", "replication")))
        until(lambda: all("cluster_state:ok" in str(ask(port, "CLUSTER", "INFO")) for port in ports))

        def master_port() -> int:
            rows = ask(ports[1], "CLUSTER", "SLOTS")
            (row,) = [row for row in rows if row[0] <= slot <= row[1]]
            return int(row[2][1])

        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Group(f"redis+cluster://{hosts}", {server.port: server for server in servers}, master_port)


@asynccontextmanager
async def over_tls(port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A TLS door in front of a server; yields its port. The Valkey of the tests speaks no TLS itself."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
