"""One step of a job: load, advance, compare-and-set, and again when somebody was faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple
from weakref import WeakValueDictionary

from coordinator.engine import journal
from coordinator.engine.lease import Lease, NoLease
from coordinator.engine.registry import ClientRegistry
from coordinator.state.admission import check_late
from coordinator.state.errors import (
    JobNotFound,
    LeaseLost,
    RoundClosed,
    RoundNotFound,
    RoundNotInFlight,
    StateUnavailable,
    no_job,
)
from coordinator.state.job_events import InRound, JobEvent, SitesSeen
from coordinator.state.job_state import Job
from coordinator.state.job_words import explain
from coordinator.state.outlook import nobody
from coordinator.state.records import RoundTask, of_team
from coordinator.state.round_state import ClientFailed, Evaluated, Phase, Reported, Round, TaskTaken, Tick
from coordinator.state.setbacks import resting
from coordinator.state.steps import Decide, Steps, take
from coordinator.store.gathering import Gathering
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.writes import Change, Fence, Stored, VersionedJob
from fedgalore.process.faults import Fault, reach

SAVE_ATTEMPTS = 200


class Applied(NamedTuple):
    """A job after a step; `closed` is the round that the step ended."""

    stored: VersionedJob
    changed: bool
    closed: Round | None = None


class Recorded(NamedTuple):
    """What became of a client's report, and the round as it stands after it."""

    outcome: Literal["accepted", "duplicate"]
    round: Round


class Stepper:
    """Moves jobs by the pure machines, for the parts of the engine. All methods raise `StateUnavailable`."""

    def __init__(
        self, store: RedisStateStore, clock: Callable[[], float], registry: ClientRegistry, lease: Lease | NoLease
    ) -> None:
        self._store = store
        self._clock = clock
        self._registry = registry
        self._lease = lease
        # Keeps the calls of this process from racing each other; other processes are met by compare-and-set.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._steps: WeakValueDictionary[str, Gathering[Decide, Applied | Exception]] = WeakValueDictionary()
        self._looks: WeakValueDictionary[str, Gathering[None, Job]] = WeakValueDictionary()

    async def load(self, job_id: str) -> VersionedJob:
        """Raises `JobNotFound`."""
        return self._there(job_id, await self._store.load(job_id))

    def read(self, job_id: str, stored: Stored) -> Job:
        """A job as it was fetched a moment ago; raises `JobNotFound`."""
        return self._there(job_id, self._store.read(job_id, stored)).job

    @staticmethod
    def _there(job_id: str, stored: VersionedJob | None) -> VersionedJob:
        if stored is None:
            raise no_job(job_id)
        return stored

    async def round(self, job: Job, number: int) -> Round:
        """A round of the job, in flight or closed.

        Raises:
            RoundNotFound
        """
        if job.round is not None and job.round.number == number:
            return job.round
        return await self.closed_round(job.id, number)

    async def closed_round(self, job_id: str, number: int) -> Round:
        """Raises `RoundNotFound`."""
        closed = await self._store.closed_round(job_id, number)
        if closed is None:
            raise RoundNotFound(f"job {job_id} has no round {number}; GET /api/v1/jobs/{job_id}/rounds lists them")
        return closed

    async def send(self, job_id: str, event: JobEvent) -> Applied:
        """Advances a job by what a person wants or a client says."""
        return await self._together(job_id, lambda job: event)

    def explained(self, applied: Applied) -> Job:
        """The job after a step, its reasons as of now."""
        return explain(applied.stored.job, self._clock())

    async def give_up_tasks(self, client: str, reason: str) -> None:
        """Ends the client's part in every round in flight."""
        for job in await self._store.load_many(await self._store.active_ids()):
            if job.round is not None and client in job.open_clients:
                with suppress(RoundClosed, JobNotFound):
                    await self.send(job.id, InRound(job.round.number, ClientFailed(client, reason)))

    async def drive(self, job_id: str, decide: Decide, known: VersionedJob | None = None) -> Applied:
        """Advances a job by what the holder of the lease decides; without a lease, anybody.

        Raises:
            LeaseLost: another process holds it.
        """
        (applied,) = await self._apply(job_id, [decide], self._lease.fence, known)
        return _done(applied)

    async def tick(self, job_id: str, known: VersionedJob | None = None) -> VersionedJob:
        """Opens a round, asks sites, chooses a cohort or fills its free seats, ends what is overdue."""
        ticked = await self.drive(job_id, lambda job: None if job.status.is_final else Tick(), known)
        if ticked.closed is not None:
            return ticked.stored
        stored, job = ticked.stored, ticked.stored.job
        offering: dict[str, float] | None = None
        if job.looks_for_sites:
            offering = await self._registry.offering(job.parsed.data.name, job.team)
            seen = await self._sites_seen(job, offering)
            stored = (await self.drive(job_id, lambda job: seen if job.looks_for_sites else None, stored)).stored
            job = stored.job
        if job.round is None:
            return stored
        number, silent = job.round.number, await self._registry.silent(job.round.open_clients)
        if job.round.phase is not Phase.SELECTION and not job.round.free_seats(silent):
            return stored
        if offering is None:
            offering = await self._registry.offering(job.parsed.data.name, job.team)
        candidates = replace(await self._registry.candidates(job, offering), silent=silent)

        def if_still_wanted(job: Job) -> JobEvent | None:
            if job.round is None or job.round.number != number or not job.round.phase.takes_candidates:
                return None
            return InRound(number, replace(candidates, resting=resting(job.setbacks, self._clock())))

        return (await self.drive(job_id, if_still_wanted, stored)).stored

    async def ask_sites(self, job_id: str) -> Job:
        """Asks the agents that are present whether their data fit, with the lease or without: people wait for it."""
        looks = self._looks.setdefault(job_id, Gathering(partial(self._ask_sites, job_id)))
        return await looks(None)

    async def _ask_sites(self, job_id: str, calls: list[None]) -> list[Job]:
        """One look for all that register at once."""
        job = (await self.load(job_id)).job
        seen = await self._sites_seen(job, await self._registry.offering(job.parsed.data.name, job.team))
        asked = await self._together(job_id, lambda job: None if job.status.is_final else seen)
        return [asked.stored.job] * len(calls)

    async def ask_site(self, datasets: Collection[str]) -> None:
        """Asks an agent with these data sets, which has just registered, what every active job wants to know."""
        for job in await self._store.load_many(await self._store.active_ids()):
            if job.parsed.data.name in datasets:
                await self.ask_sites(job.id)

    async def _sites_seen(self, job: Job, offering: dict[str, float]) -> SitesSeen:
        if offering:
            return SitesSeen(offering, "")
        return SitesSeen(offering, nobody(job.parsed.data.name, await self._registry.all((), of_team(job.team))))

    async def record(self, job_id: str, number: int, event: Reported | Evaluated | ClientFailed) -> Recorded:
        """Notes what a client says of a round, which may have closed meanwhile.

        Raises:
            JobNotFound, RoundNotFound, RoundClosed, NotParticipant
        """
        try:
            applied = await self.send(job_id, InRound(number, event))
        except RoundNotInFlight:
            # The archive knows why it closed, and whether the client only says something again.
            closed = await self.closed_round(job_id, number)
            check_late(closed, event)
            return Recorded("duplicate", closed)
        after = applied.closed or await self.round(applied.stored.job, number)
        return Recorded("accepted" if applied.changed else "duplicate", after)

    async def take(self, job_id: str, client: str) -> RoundTask | None:
        """The client's open task of this job, marked as taken; None when it has gone meanwhile."""

        def if_open(job: Job) -> JobEvent | None:
            if job.round is None or client not in job.open_clients or not job.round.remaining_s(self._clock()):
                return None
            return InRound(job.round.number, TaskTaken(client))

        applied = await self._together(job_id, if_open)
        job = applied.stored.job
        if applied.closed is not None or job.round is None or client not in job.open_clients:
            return None
        remaining_s = job.round.remaining_s(self._clock())
        return RoundTask(job, job.round, remaining_s) if remaining_s else None

    async def _together(self, job_id: str, decide: Decide) -> Applied:
        """Advances a job; what many say of it at once is saved at once."""
        steps = self._steps.setdefault(job_id, Gathering(partial(self._apply, job_id)))
        return _done(await steps(decide))

    async def _apply(
        self,
        job_id: str,
        decisions: Sequence[Decide],
        fence: Fence | None = None,
        known: VersionedJob | None = None,
    ) -> list[Applied | Exception]:
        """Advances a job by what each decision makes of its fresh state, one after the other; what each came to.

        Args:
            known: the job as it was a moment ago. It spares the first load: a save that comes of an older state is
                refused, and the job is loaded then.
        """
        outcomes: list[Applied | Exception] = []
        while left := decisions[len(outcomes) :]:
            try:
                async with self._locks.setdefault(job_id, asyncio.Lock()):
                    stored, steps = await self._saved(job_id, left, fence, known)
                known = None
                if steps.changed and stored.job.goes_on and self._lease.drives:
                    # Spares the wait for the next tick, which would do the same.
                    with suppress(StateUnavailable, LeaseLost):
                        stored = await self.tick(job_id, stored)
            except Exception as error:
                return outcomes + [error] * len(left)
            outcomes += [
                each if isinstance(each, Exception) else Applied(stored, each, steps.closed) for each in steps.outcomes
            ]
        return outcomes

    async def _saved(
        self, job_id: str, decisions: Sequence[Decide], fence: Fence | None, known: VersionedJob | None
    ) -> tuple[VersionedJob, Steps]:
        for attempt in range(SAVE_ATTEMPTS):
            stored = known or await self.load(job_id)
            known = None
            steps = take(stored.job, decisions, self._clock())
            if not steps.changed:
                return stored, steps
            reach(Fault.STEP_DECIDED)
            change = Change(stored, steps.job, steps.events, steps.effects, steps.closed, fence)
            outcome = await self._store.save(change)
            if outcome == "fenced":
                self._lease.drop()
                raise LeaseLost(f"job {job_id}: another process has taken over; the step of this process is dropped")
            if outcome == "saved":
                reach(Fault.STEP_SAVED)
                journal.write(job_id, steps.events)
                return VersionedJob(steps.job, stored.version + 1), steps
            await asyncio.sleep(random.uniform(0, min(0.05, 0.001 * (attempt + 1))))
        raise StateUnavailable(f"job {job_id} is written to by too many at once; try again")


def _done(outcome: Applied | Exception) -> Applied:
    """Raises what the step raised."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
