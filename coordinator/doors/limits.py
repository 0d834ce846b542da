"""How much of a door one caller may take: the deadlines, and who holds how many places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from coordinator.state.errors import Busy
from coordinator.state.limits import (
    MAX_CALLS_PER_CLIENT,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_REQUESTS_PER_KEY,
)

HANDSHAKE_S = 10.0  # from a connection's start to the end of its TLS handshake
HEADER_S = 20.0  # for a whole request's header, from the connection's start or from the answer before
MESSAGE_S = 20.0  # for the message of an agent's call
BODY_S = 60.0  # for the body of a request, which has 1 MiB at most
STALL_S = 60.0  # in which a transfer has to move on by a piece of 64 KiB
PROOF_S = 20.0  # for a connection of the agents' door to show whose it is
MOST_DOWNLOADS = 16  # of a key at a time
CONNECTIONS_OF_A_CLIENT = 4  # its newest; those before are of a line that broke


@dataclass(frozen=True)
class DoorLimits:
    """`max_connections`, `max_connections_per_address`: of each door. `max_requests_per_key`: REST, or of an address
    where nobody shows a key. `max_calls_per_client`: of an agent."""

    max_connections: int = MAX_CONNECTIONS
    max_connections_per_address: int = MAX_CONNECTIONS_PER_ADDRESS
    max_requests_per_key: int = MAX_REQUESTS_PER_KEY
    max_calls_per_client: int = MAX_CALLS_PER_CLIENT


class Places:
    """Who holds how many of something, such as calls. Belongs to one event loop.

    Args:
        what: they are, for the refusal.
        setting: raises the number for each, where one does.
        in_all: for everybody together; None: as many as each may have.
    """

    def __init__(self, what: str, each: int, setting: str | None = None, in_all: int | None = None) -> None:
        self._what = what
        self._more = f", or let the operator raise {setting}" if setting else ""
        self._each, self._in_all = each, in_all
        self._held: Counter[str] = Counter()
        self._together = 0

    def take(self, holder: str) -> None:
        """Raises `Busy`, and takes nothing, where none is left for this holder."""
        if self._held[holder] >= self._each:
            raise Busy(
                f"{self._what}: {holder} has {self._each} at a time, which is the most; wait until some have ended"
                f"{self._more}"
            )
        if self._in_all is not None and self._together >= self._in_all:
            raise Busy(f"{self._what}: there are {self._in_all} at a time, which is the most; try again in a while")
        self._held[holder] += 1
        self._together += 1

    def leave(self, holder: str) -> None:
        """Gives a place back."""
        self._together -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """A place for the block; raises `Busy`."""
        self.take(holder)
        try:
            yield
        finally:
            self.leave(holder)


def holder_of(host: str) -> str:
    """Who counts as one caller by an IP address: an address of IPv4, a network of 64 bits of IPv6."""
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket, or a name
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
