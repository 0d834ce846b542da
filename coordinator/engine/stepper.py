"""One step of a job: load, advance, compare-and-set, and again when somebody was faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Literal
from weakref import WeakValueDictionary

from coordinator.engine.agents import AgentRegistry
from coordinator.engine.lease import Lease
from coordinator.state import job as jobs
from coordinator.state import round as rounds
from coordinator.state.changes import changes
from coordinator.state.errors import JobNotFound, LeaseLost, RoundClosed, RoundNotFound, StateUnavailable
from coordinator.state.job_state import InRound, Job, JobEvent, Status
from coordinator.state.records import RoundTask
from coordinator.state.round_state import ClientFailed, Evaluated, Phase, Reported, Round, TaskTaken, Tick
from coordinator.store.state_store import Change, Fence, StateStore, VersionedJob
from fedgalore.process.faults import Fault, reach

SAVE_ATTEMPTS = 200


class Stepper:
    """Moves jobs by the pure machines; the engine's inside. All methods raise `StateUnavailable`."""

    def __init__(
        self, store: StateStore, clock: Callable[[], float], agents: AgentRegistry, lease: Lease | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._agents = agents
        self._lease = lease
        # Keeps the calls of this process from racing each other; other processes are met by compare-and-set.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self, job_id: str) -> VersionedJob:
        """Raises `JobNotFound`."""
        stored = await self._store.load(job_id)
        if stored is None:
            raise JobNotFound(f"job {job_id!r} does not exist; GET /api/v1/jobs lists those that do")
        return stored

    async def closed_round(self, job_id: str, number: int) -> Round:
        """Raises `RoundNotFound`."""
        found = await self._store.closed_round(job_id, number)
        if found is None:
            raise RoundNotFound(f"job {job_id} has no round {number}; GET /api/v1/jobs/{job_id}/rounds lists them")
        return found

    async def apply(
        self, job_id: str, decide: Callable[[Job], JobEvent | None], fence: Fence | None = None
    ) -> tuple[Job, bool]:
        """Advances a job by what `decide` makes of its fresh state; the job, and whether it changed.

        Raises:
            LeaseLost: the fence's lease is over.
        """
        async with self._locks.setdefault(job_id, asyncio.Lock()):
            for attempt in range(SAVE_ATTEMPTS):
                stored, now = await self.load(job_id), self._clock()
                event = decide(stored.job)
                if event is None:
                    return jobs.explain(stored.job, now), False
                step = jobs.advance(stored.job, event, now)
                if step.job is stored.job:
                    return jobs.explain(step.job, now), False
                told = changes(stored.job, step.job, step.closed, step.reason)
                reach(Fault.STEP_DECIDED)
                change = Change(stored, step.job, told, step.effects, step.closed, fence)
                outcome = await self._store.save(change)
                if outcome == "fenced":
                    if self._lease is not None:
                        self._lease.drop()
                    raise LeaseLost(f"job {job_id}: another process has taken over; this one's step is dropped")
                if outcome == "saved":
                    reach(Fault.STEP_SAVED)
                    break
                await asyncio.sleep(random.uniform(0, min(0.05, 0.001 * (attempt + 1))))
            else:
                raise StateUnavailable(f"job {job_id} is written to by too many at once; try again")
        if step.job.status is Status.RUNNING and step.job.round is None and (self._lease is None or self._lease.drives):
            # Spares the wait for the next tick, which would do the same.
            with suppress(StateUnavailable, LeaseLost):
                await self.tick(job_id)
        return jobs.explain(step.job, now), True

    async def send(self, job_id: str, event: JobEvent) -> tuple[Job, bool]:
        """Advances a job by what a person or a client wants, whatever its state."""
        return await self.apply(job_id, lambda job: event)

    async def drive(self, job_id: str, decide: Callable[[Job], JobEvent | None]) -> tuple[Job, bool]:
        """Advances a job by what the holder of the lease decides; without a lease, anybody.

        Raises:
            LeaseLost: it is held by another process.
        """
        return await self.apply(job_id, decide, self._lease.fence if self._lease else None)

    async def tick(self, job_id: str) -> None:
        """Opens a round, chooses its cohort, ends what is overdue."""
        job, _ = await self.drive(job_id, lambda job: None if job.status.is_final else Tick())
        if job.round is None or job.round.phase is not Phase.SELECTION:
            return
        number, data = job.round.number, job.parsed.data.name
        candidates = InRound(number, await self._agents.candidates(data))

        def if_still_selecting(job: Job) -> JobEvent | None:
            current = job.round
            return candidates if current and (current.number, current.phase) == (number, Phase.SELECTION) else None

        await self.drive(job_id, if_still_selecting)

    async def tell(
        self, job_id: str, number: int, event: Reported | Evaluated | ClientFailed
    ) -> Literal["accepted", "duplicate"]:
        """Passes on what a client says of a round, which may have closed meanwhile."""
        await self._agents.touch(event.client)
        try:
            _, changed = await self.send(job_id, InRound(number, event))
        except RoundClosed:
            job = (await self.load(job_id)).job
            if job.round is not None and job.round.number == number:
                raise
            # The archive knows why it closed, and whether this is only a report told again.
            closed = await self.closed_round(job_id, number)
            rounds.advance(closed, event, self._clock(), job.policy(closed.kind))
            return "duplicate"
        return "accepted" if changed else "duplicate"

    async def take(self, job_id: str, client: str) -> RoundTask | None:
        """The client's open task of this job, marked as taken; None when it has gone meanwhile."""

        def if_open(job: Job) -> JobEvent | None:
            if job.round is None or client not in job.open_clients or not job.round.remaining_s(self._clock()):
                return None
            return InRound(job.round.number, TaskTaken(client))

        job, _ = await self.apply(job_id, if_open)
        current = job.round
        if current is None or client not in job.open_clients:
            return None
        remaining_s = current.remaining_s(self._clock())
        return RoundTask(job, current, remaining_s) if remaining_s else None
