"""Connections of the agents' door that have no right to stay are shut, and nobody else's."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.doors.grpc import connections
from coordinator.doors.grpc.connections import Connection, Connections, peer_of, to_shut
from coordinator.doors.limits import CONNECTIONS_OF_A_CLIENT, PROOF_S, DoorLimits
from tests.coordinator.doors.grpc.door import House, open_house

ROOM = DoorLimits(max_connections=100, max_connections_per_address=100)


def line(number: int, since: float = 0.0, host: str = "10.0.0.1") -> Connection:
    return Connection((host, str(number)), since)


def test_a_stranger_has_its_time_and_an_agent_stays() -> None:
    agent, stranger, late = line(1), line(2), line(3, since=5)
    shut = to_shut([agent, stranger, late], {agent.peer: "a"}, ROOM, PROOF_S + 1)
    assert shut == [stranger]


def test_the_newest_connections_of_a_client_stay() -> None:
    lines = [line(number, since=number) for number in range(CONNECTIONS_OF_A_CLIENT + 2)]
    clients = {each.peer: "a" for each in lines} | {line(99).peer: "b"}
    assert to_shut([line(99), *lines], clients, ROOM, 10) == lines[:2]


def test_of_an_address_strangers_go_first_and_the_oldest_of_them() -> None:
    limits = DoorLimits(max_connections=100, max_connections_per_address=3)
    agents, strangers = [line(1), line(2)], [line(3, 8), line(4, 7), line(5, 9)]
    clients = {agents[0].peer: "a", agents[1].peer: "b"}
    others = [line(number, host="10.0.0.2") for number in range(3)]
    known = {each.peer: str(each) for each in others}
    assert to_shut([*agents, *strangers, *others], clients | known, limits, 10) == [line(4, 7), line(3, 8)]


def test_of_too_many_agents_behind_an_address_those_that_came_first_stay() -> None:
    limits = DoorLimits(max_connections=100, max_connections_per_address=2)
    agents = [line(number, since=number) for number in range(4)]
    assert to_shut(agents, {each.peer: str(each) for each in agents}, limits, 9) == agents[2:]


def test_strangers_give_way_before_the_door_is_full() -> None:
    agents = [line(number, host="10.0.0.2") for number in range(60)]
    strangers = [line(number, since=number / 100) for number in range(30)]
    clients = {each.peer: str(each) for each in agents}
    assert to_shut([*strangers, *agents], clients, ROOM, 5) == strangers[:15]
    assert to_shut([*strangers, *agents], clients, ROOM, 0.5) == []  # they have just come


async def test_a_look_that_fails_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    class Short(Connections):
        """Its first look finds no descriptor."""

        def look(self) -> None:
            if next(failing, None) is not None:
                raise OSError(errno.EMFILE, "Too many open files")
            loop.call_soon_threadsafe(looked.set)

    loop, failing = asyncio.get_running_loop(), iter(range(1))
    monkeypatch.setattr(connections, "LOOK_S", 0.0)
    with capture_logs() as logged:
        keeping = asyncio.create_task(Short(ROOM).keep())
        await asyncio.wait_for(looked.wait(), 10)
        keeping.cancel()
        await asyncio.wait([keeping])
    assert [row["event"] for row in logged] == ["connections_unwatched"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5000", ("10.0.0.1", "5000")),
        ("ipv6:%5B::1%5D:5000", ("::1", "5000")),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5000", ("10.0.0.1", "5000")),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", ("fe80::1%eth0", "5000")),
    ],
)
def test_grpc_and_sockets_write_a_peer_alike(peer: str, address: tuple[str, str]) -> None:
    assert peer_of(peer) == address


@pytest.fixture
async def house(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(connections, "LOOK_S", 0.01)
    async with open_house(redis_url, tmp_path) as house:
        yield house


async def test_a_silent_connection_is_shut_and_an_agents_is_not(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.register("site-a")
    with socket.create_connection(("127.0.0.1", house.server.port)) as silent:
        reader, writer = await asyncio.open_connection(sock=silent)
        monkeypatch.setattr(connections, "PROOF_S", 0.0)
        async with asyncio.timeout(10):
            while await reader.read(100):  # what HTTP/2 says first
                pass
        writer.close()
    waiting = asyncio.create_task(house.poll("site-a", wait_s=0.1))
    assert not (await waiting).HasField("task")


def test_only_sockets_of_the_door_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PROOF_S", -1.0)
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_server(("127.0.0.1", 0)) as other:
        lines = [socket.create_connection(each.getsockname()) for each in (door, other)]
        taken = [each.accept()[0] for each in (door, other)]
        looking = Connections(ROOM)
        looking.port = door.getsockname()[1]
        looking.look()
        assert lines[0].recv(1) == b""
        assert taken[1].send(b"x") == 1
        assert lines[1].recv(1) == b"x"
        for each in (*lines, *taken):
            each.close()
