"""The connections of the agents' door. gRPC accepts them by itself and counts them only all together, so they are
looked at from outside: what has no right to stay is shut, as if its line had broken.

A full door is not shut to agents: connections that have shown no key give way to those that come.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import structlog

from coordinator.doors.limits import CONNECTIONS_OF_A_CLIENT, PROOF_S, DoorLimits, holder_of

LOOK_S = 1.0
FULL = 0.75  # of the most connections: from here on strangers give way
_DESCRIPTORS = Path("/proc/self/fd")
Peer = tuple[str, str]  # IP address and port

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Connection:
    """`since`: when it was first seen."""

    peer: Peer
    since: float


class Connections:
    """Of the door at `port`."""

    def __init__(self, limits: DoorLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = 0
        self._limits = limits
        self._clock = clock
        self._clients: dict[Peer, set[str]] = {}
        self._seen: dict[str, Connection | None] = {}  # by a socket's name; None: it is not of this door

    def prove(self, peer: str, client: str) -> None:
        """A call over the connection from this peer came from the client."""
        self._clients.setdefault(peer_of(peer), set()).add(client)

    def client_of(self, peer: Peer) -> str | None:
        """Whose a connection has shown to be; None where that is nobody's, or several clients' behind a proxy."""
        clients = list(self._clients.get(peer, set()).copy())  # a look is another thread's
        return clients[0] if len(clients) == 1 else None

    def is_proved(self, peer: Peer) -> bool:
        """Whether a call over this connection has shown whose it is."""
        return peer in self._clients

    async def keep(self) -> None:
        """Looks after them for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # no descriptors, no thread: the next look may find some
                log.exception("connections_unwatched")

    def look(self) -> None:
        """Shuts those that have to go."""
        now, descriptors, seen = self._clock(), dict[Peer, int](), dict[str, Connection | None]()
        proved = list(self._clients.copy())  # before the look: what is proved meanwhile may not be in the list
        for path in _DESCRIPTORS.iterdir():
            with suppress(OSError):  # closed meanwhile
                name = os.readlink(path)  # noqa: PTH115  (there may be thousands)
                if name.startswith("socket:"):
                    known = self._seen[name] if name in self._seen else self._first_look(int(path.name), now)
                    seen[name] = known
                    if known is not None:
                        descriptors[known.peer] = int(path.name)
        self._seen = seen
        here = [each for each in seen.values() if each is not None]
        # What several clients share is kept as if it were another client's.
        clients = {peer: self.client_of(peer) or ":".join(peer) for peer in proved}
        for connection in to_shut(here, clients, self._limits, now):
            self._shut(descriptors[connection.peer], connection.peer)
        for peer in clients.keys() - descriptors.keys():
            self._clients.pop(peer, None)

    def _first_look(self, descriptor: int, now: float) -> Connection | None:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            peer = self._peer(copy)
        return Connection(peer, now) if peer else None

    def _shut(self, descriptor: int, peer: Peer) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
            if self._peer(copy) == peer:  # the number may be another's by now
                copy.shutdown(socket.SHUT_RDWR)

    def _peer(self, connection: socket.socket) -> Peer | None:
        """Who is at the other end of a connection to this door."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != self.port:
            return None
        try:
            host, port = connection.getpeername()[:2]
        except OSError:  # the listening socket
            return None
        return _plain(host), str(port)


def to_shut(
    here: Iterable[Connection], clients: Mapping[Peer, str], limits: DoorLimits, now: float
) -> list[Connection]:
    """The connections that have to go: strangers after their time, all but the newest of a client, all that an address
    has too many, and the oldest strangers where the door is nearly full."""
    strangers, addresses = list[Connection](), defaultdict[str, list[Connection]](list)
    of_client = defaultdict[str, list[Connection]](list)
    for each in sorted(here, key=lambda each: each.since):
        addresses[holder_of(each.peer[0])].append(each)
        if each.peer in clients:
            of_client[clients[each.peer]].append(each)
        else:
            strangers.append(each)
    going = {each for each in strangers if now - each.since > PROOF_S}
    for several in of_client.values():
        going.update(several[:-CONNECTIONS_OF_A_CLIENT])
    for several in addresses.values():
        staying = [each for each in several if each not in going]
        # Oldest strangers first, then the newest of those that are known: an upload may be under way over the others.
        staying.sort(key=lambda each: (each.peer in clients, -each.since if each.peer in clients else each.since))
        going.update(staying[: max(0, len(staying) - limits.max_connections_per_address)])
    left = sum(map(len, addresses.values())) - len(going)
    waiting = [each for each in strangers if each not in going and now - each.since >= LOOK_S]
    going.update(waiting[: max(0, left - int(FULL * limits.max_connections))])
    return sorted(going, key=lambda each: each.since)


def peer_of(peer: str) -> Peer:
    """IP address and port in gRPC's words, such as `ipv4:10.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _plain(host.strip("[]")), port


def _plain(host: str) -> str:
    """An address of IPv4 that came to a socket of IPv6 is as gRPC writes it."""
    return host.removeprefix("::ffff:") if "." in host else host
