"""What every side of the engine has: the store and the clock, looking at jobs, rounds and agents, and waiting."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from coordinator.engine.agents import MAX_AGENTS, AgentRegistry
from coordinator.engine.clock import steady_clock
from coordinator.engine.lease import Lease
from coordinator.engine.stepper import Stepper
from coordinator.state import job as jobs
from coordinator.state.errors import InvalidUpdate
from coordinator.state.job_state import Job, Status
from coordinator.state.records import AgentStatus
from coordinator.state.round_state import Round
from coordinator.store.state_store import MAX_JOBS, StateStore

EVENT_BATCH = 500
_EVENT_ID = re.compile(r"\d{1,18}(-\d{1,18})?")

# Inside the class, `list` is the method.
_Jobs = list[Job]
_Rounds = list[Round]
_Agents = list[AgentStatus]
_Events = list[tuple[str, str, dict[str, Any]]]


class EngineBase:
    """Jobs, rounds and agents as they are.

    A job whose document cannot be read is left out wherever many are looked at, and `JobUnreadable` where it is named.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Callable[[], float] | None = None,
        presence_s: float = 30.0,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
        lease: Lease | None = None,
        max_agents: int = MAX_AGENTS,
        max_jobs: int = MAX_JOBS,
    ) -> None:
        """An engine on a store that any number of them may share.

        Args:
            clock: seconds since the epoch; default: steady, whatever the machine's is set to.
            lease: what the coordinator's own work is done under; without one, several processes may do it.
            max_agents: enrolled at most.
            max_jobs: active at most.
        """
        clock = clock or steady_clock()
        self._store = store
        self._clock = clock
        self._max_jobs = max_jobs
        self.presence_s = presence_s
        self._token = token
        self._agents = AgentRegistry(store, clock, presence_s, max_agents)
        self.lease = lease
        self._stepper = Stepper(store, clock, self._agents, lease)

    async def leading(self) -> None:
        """Returns when the lease is held; at once where there is none."""
        if self.lease is not None:
            await self.lease.held()

    def now(self) -> float:
        """Seconds since the epoch, by the clock that deadlines go by."""
        return self._clock()

    async def check(self) -> None:
        """Returns when the state store answers."""
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()

    async def get(self, job_id: str) -> Job:
        """The job, its reasons as of now.

        Raises:
            JobNotFound: there is no such job.
        """
        return jobs.explain((await self._stepper.load(job_id)).job, self._clock())

    async def list(self, status: Status | None = None, limit: int = 50, after: str | None = None) -> _Jobs:
        """Jobs, newest first; `after` is the id of the last one of the page before.

        Raises:
            JobNotFound: `after` is no job.
        """
        if after is not None:
            await self._stepper.load(after)
        found: _Jobs = []
        while len(found) < limit:
            ids = await self._store.job_ids(after, limit)
            page = await self._store.load_many(ids)
            found += [jobs.explain(job, self._clock()) for job in page if status in (None, job.status)]
            if len(ids) < limit:
                break
            after = ids[-1]
        return found[:limit]

    async def active_jobs(self) -> _Jobs:
        """Jobs that are not final, oldest first."""
        found = await self._store.load_many(await self._store.active_ids())
        return [jobs.explain(job, self._clock()) for job in found]

    async def rounds_in_flight(self) -> set[tuple[str, int]]:
        """Job id and number of every round in flight."""
        return {(job.id, job.round.number) for job in await self.active_jobs() if job.round}

    async def rounds(self, job_id: str) -> _Rounds:
        """All rounds in order of their number, the one in flight last.

        Raises:
            JobNotFound: there is no such job.
        """
        # The job is read first: a round that closes in between is then in the archive, and not lost.
        flying = (await self.get(job_id)).round
        closed = await self._store.closed_rounds(job_id)
        if flying is None or any(one.number == flying.number for one in closed):
            return closed
        return [*closed, flying]

    async def round(self, job_id: str, number: int) -> Round:
        """One round.

        Raises:
            JobNotFound, RoundNotFound
        """
        flying = (await self.get(job_id)).round
        if flying is not None and flying.number == number:
            return flying
        return await self._stepper.closed_round(job_id, number)

    async def agents(self) -> _Agents:
        """Every enrolled client, by name."""
        return await self._agents.all(await self.active_jobs())

    async def live_progress(self, job_id: str) -> dict[str, dict[str, Any]]:
        """By client: round, stage, step, train_loss (None: none that is finite) and at, of the round in flight."""
        return await self._store.progress(job_id)

    async def traffic(self, job_id: str) -> dict[int, dict[str, dict[str, int]]]:
        """Bytes by round, client and direction: `{3: {"a": {"up": 10, "down": 20}}}`."""
        return await self._store.traffic(job_id)

    def mark(self, topic: str = "") -> int:
        """Note it before looking at the state, and pass it to `wait_for_change`: then no change is missed."""
        return self._store.mark(topic)

    async def wait_for_change(self, timeout_s: float, since: int | None = None, topic: str = "") -> bool:
        """Waits for a save by any process, of the topic (an `Effect`) or at all; False when the time ran out."""
        return await self._store.wait(timeout_s, since, topic)

    async def events(self, job_id: str, after: str = "0", block_s: float | None = None) -> _Events:
        """Up to 500 rows (id, type, data) after the id `after`, waiting up to `block_s` for the first.

        What the types mean: `coordinator.state.changes`. An `after` that is no event id counts as the beginning.

        Raises:
            JobNotFound: there is no such job.
        """
        await self._stepper.load(job_id)
        after = after if _EVENT_ID.fullmatch(after) else "0"
        loop = asyncio.get_running_loop()
        end = loop.time() + (block_s or 0.0)
        while True:
            mark = self.mark()
            found = await self._store.events(job_id, after, EVENT_BATCH)
            left = end - loop.time()
            if found or left <= 0:
                return found
            await self.wait_for_change(left, mark)


def check_finite(field: str, values: Mapping[str, float]) -> None:
    """Raises `InvalidUpdate` for a number that is none."""
    for name, value in values.items():
        if not isfinite(value):
            raise InvalidUpdate(
                f"{field}.{name}: is {value}, not a finite number; a run that has diverged needs a lower learning rate"
            )
