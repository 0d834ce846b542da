"""Which clients are enrolled and which are present: registration and signs of life."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog

from coordinator.state.errors import AgentNotFound, NameTaken, ProtocolMismatch, TooMany, UnknownClient
from coordinator.state.job_state import Job
from coordinator.state.limits import MAX_AGENTS, check_datasets, check_name
from coordinator.state.records import NOBODY, AgentRecord, AgentStatus, Instance, OpenTask, Waiting
from coordinator.state.round_state import Candidates
from coordinator.store.redis_agent_store import Contact
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import version

log = structlog.get_logger(__name__)


class ClientRegistry:
    """The enrolled clients. A client counts as present for `presence_s` after its last sign of life."""

    def __init__(
        self, store: RedisStateStore, clock: Callable[[], float], presence_s: float, max_agents: int = MAX_AGENTS
    ) -> None:
        self._store, self._agents = store, store.agents
        self._clock = clock
        self._presence_s = presence_s
        self._max_agents = max_agents

    async def register(
        self,
        client: str,
        protocol_version: int,
        software_version: str,
        datasets: dict[str, int],
        instance: Instance = NOBODY,
        oldest_protocol_version: int = 0,
    ) -> int:
        """Makes a client known, or known again; the newest protocol version that both sides speak.

        What the client says now replaces what it said before.

        From now on this process of an agent speaks for the client, and no other.

        Raises:
            ProtocolMismatch: with the versions of both and which side to upgrade.
            InvalidAgent: a name that cannot be used, a data set without examples, or too many of them.
            TooMany: no other client can be enrolled.
            NameTaken: an agent of another folder speaks for the client, and is present.
        """
        common = version.common_protocol(protocol_version, oldest_protocol_version)
        if common is None:
            older = "the agent" if protocol_version < version.PROTOCOL_VERSION else "the coordinator"
            theirs = version.protocols(protocol_version, oldest_protocol_version)
            ours = version.protocols(version.PROTOCOL_VERSION, version.OLDEST_PROTOCOL_VERSION)
            raise ProtocolMismatch(
                f"protocol_version: agent {client!r} speaks {theirs} and the coordinator speaks {ours}; upgrade {older}"
            )
        check_name("client", client)
        check_datasets(datasets)
        await self._check_room(client)
        now = self._clock()
        more = oldest_protocol_version if oldest_protocol_version < protocol_version else 0
        record = AgentRecord(client, dict(datasets), software_version, now, protocol_version, *instance, more)
        seen = await self._agents.register(record, now, now - self._presence_s)
        if seen is not None:
            raise self._taken(client, seen)
        log.info("agent_registered", client=client, version=software_version, datasets=sorted(datasets))
        return common

    async def check_free(self, client: str, instance: Instance) -> None:
        """Raises `NameTaken` where an agent of another folder speaks for the client, and is present."""
        record = await self._agents.record(client)
        if record is None or record.folder in ("", instance.folder):
            return
        seen = (await self._agents.last_seen([client]))[client]
        if seen >= self._clock() - self._presence_s:
            raise self._taken(client, seen)

    async def check_instance(self, client: str, instance: Instance) -> None:
        """Raises `NameTaken` where another process has registered as this client since this one did."""
        record = await self._agents.record(client)
        if record is not None:
            self._check_instance(record, instance)

    @staticmethod
    def _check_instance(record: AgentRecord, instance: Instance) -> None:
        if Instance(record.folder, record.process) not in (NOBODY, instance):
            log.warning("name_taken", client=record.name)
            raise NameTaken(
                f"client: another agent has registered as {record.name!r} after this one, and serves now; run one "
                "agent under a name, and give the other a name and a work_dir of its own"
            )

    def _taken(self, client: str, seen: float) -> NameTaken:
        log.warning("name_taken", client=client)
        return NameTaken(
            f"client: another agent serves as {client!r}, and was seen {max(0.0, self._clock() - seen):.0f} s ago; "
            "give this agent a name of its own, or stop the other: its name is free "
            f"{self._presence_s:g} s after its last sign of life"
        )

    async def expect(self, client: str) -> bool:
        """Enters a client that is expected; False when it is known already.

        Raises:
            InvalidAgent: a name that cannot be used.
            TooMany: no other client can be enrolled.
        """
        check_name("name", client)
        await self._check_room(client)
        return await self._agents.expect(AgentRecord(client, {}, "", self._clock()))

    async def _check_room(self, client: str) -> None:
        is_known, count = await self._agents.enrolled(client)
        if not is_known and count >= self._max_agents:
            raise TooMany(
                f"client: {count} are enrolled, and no more can be; remove one by DELETE /api/v1/agents/NAME, "
                "or raise FEDGALORE_MAX_AGENTS"
            )

    async def touch(self, client: str, instance: Instance | None = None, job_id: str | None = None) -> Contact:
        """Notes a sign of life; what waits for the client, and the job that it speaks of.

        Args:
            instance: the agent that speaks for the client, where that is to be looked at.

        Raises:
            NameTaken: as `check_instance`.
        """
        contact = await self._agents.touch(client, self._clock(), job_id)
        if instance is not None and contact.record is not None:
            self._check_instance(contact.record, instance)
        return contact

    async def waiting(self, client: str, instance: Instance | None = None) -> Waiting:
        """Notes a sign of life; the jobs that wait for the client.

        Raises:
            NameTaken, UnknownClient: as `touch` and `known`.
        """
        return known(client, await self.touch(client, instance))

    async def datasets(self, client: str) -> dict[str, int]:
        """Training examples by data set, as the client has registered.

        Raises:
            UnknownClient: it has to register first.
        """
        record = await self._agents.record(client)
        if record is None:
            raise UnknownClient(f"client {client!r} has not registered with this coordinator; start its agent once")
        return dict(record.datasets)

    async def silent(self, clients: Collection[str]) -> frozenset[str]:
        """Those of the clients that have given no sign of life for `presence_s`."""
        oldest = self._clock() - self._presence_s
        seen = await self._agents.last_seen(sorted(clients))
        return frozenset(client for client, at in seen.items() if at < oldest)

    async def offering(self, dataset: str, team: str = "") -> dict[str, float]:
        """Present clients that offer this data set, with the times of their registration.

        Args:
            team: only those that are given to it; empty: all.
        """
        seen_lately = await self._agents.seen(self._clock() - self._presence_s)
        given = await self._agents.teams() if team else {}
        return {
            record.name: record.registered_at
            for record, _ in seen_lately
            if dataset in record.datasets and record.is_understood and (not team or team in given.get(record.name, ()))
        }

    async def is_given(self, client: str, team: str) -> bool:
        """Whether jobs of this team may ask the client; empty: those of no team, which ask all."""
        return not team or team in (await self._agents.teams()).get(client, ())

    async def give(self, client: str, teams: Collection[str]) -> None:
        """Gives a client to these teams, and to no others; rounds in flight go on as they are.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        if not (await self._agents.enrolled(client))[0]:
            raise _no_agent(client)
        await self._agents.give(client, teams)
        log.info("agent_given", client=client, teams=sorted(teams))

    async def candidates(self, job: Job, offering: Iterable[str]) -> Candidates:
        """Those of the clients whose data fit the job and who have no task, by name."""
        asked = {client: job.sites[client] for client in offering if client in job.sites}
        fitting = [client for client, check in asked.items() if check.fits]
        checking = [client for client, check in asked.items() if check.answered_at is None]
        # A client that works for another job would let the round's deadline pass before it begins.
        busy = await self._agents.busy([*fitting, *checking], self._store.unreadable)
        idle = tuple(client for client in fitting if client not in busy)
        return Candidates(idle, len(fitting) - len(idle), len([client for client in checking if client not in busy]))

    async def all(self, active: Iterable[Job], teams: Collection[str] | None = None) -> list[AgentStatus]:
        """Every enrolled client, by name, with the task that it holds in an active job.

        Args:
            teams: only clients that are given to one of them, of whose other teams nothing is told; None: all.
        """
        given = await self._agents.teams()
        if teams is not None:
            given = {client: shared for client, of in given.items() if (shared := of & frozenset(teams))}
        tasks: dict[str, OpenTask] = {}
        for job in active:
            for client in job.open_clients:
                if job.round is not None:
                    tasks.setdefault(client, OpenTask(job.id, job.round.number))
        oldest = self._clock() - self._presence_s
        return [
            AgentStatus(
                record.name,
                record.datasets,
                record.software_version,
                record.registered_at,
                record.protocol_version,
                last_seen=seen,
                present=seen >= oldest,
                task=tasks.get(record.name),
                teams=given.get(record.name, frozenset()),
            )
            for record, seen in await self._agents.seen()
            if teams is None or record.name in given
        ]

    async def forget(self, client: str) -> None:
        """Strikes a client from the list.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        if not await self._agents.forget(client):
            raise _no_agent(client)
        log.info("agent_forgotten", client=client)


def _no_agent(client: str) -> AgentNotFound:
    return AgentNotFound(f"agent {client!r} is not registered; GET /api/v1/agents lists those that are")


def known(client: str, contact: Contact) -> Waiting:
    """The jobs that wait for a client.

    Raises:
        UnknownClient: it has to register first, or again after an upgrade to another protocol version.
    """
    if contact.waiting is None:
        raise UnknownClient(f"client {client!r} is not registered with this coordinator; register first")
    return contact.waiting
