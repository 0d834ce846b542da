"""What people may do: post, pause, resume and cancel jobs, expect and forget agents; and look, by `reader`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress

from coordinator.engine import journal
from coordinator.engine.registry import ClientRegistry
from coordinator.engine.state_reader import StateReader
from coordinator.engine.stepper import Stepper
from coordinator.state import job as jobs
from coordinator.state.errors import (
    AgentNotFound,
    BeingMade,
    BlobLost,
    IdempotencyConflict,
    IllegalTransition,
    JobNotFound,
    JobUnreadable,
    TooMany,
)
from coordinator.state.job_events import Cancel, Describe, JobEvent, Pause, Resume, RollBack, WeightsWanted
from coordinator.state.job_id import new_id
from coordinator.state.job_state import Job
from coordinator.state.job_words import explain
from coordinator.state.labels import NONE, Labels
from coordinator.state.records import AgentStatus
from coordinator.state.round_state import ModelVersion
from coordinator.state.stream_events import changes
from coordinator.state.versions import with_weights
from coordinator.store.garbage import ALL_JOBS, named_by
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.removal import Removal
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach
from fedgalore.spec.job import JobSpec

WAIT_S = 20.0  # of a request for what the aggregator has to make first


class PeopleCalls:
    """What the people's door calls."""

    def __init__(
        self,
        store: RedisStateStore,
        clock: Callable[[], float],
        registry: ClientRegistry,
        stepper: Stepper,
        reader: StateReader,
        removal: Removal,
        token: Callable[[], str],
        max_jobs: int,
    ) -> None:
        """`token` makes the end of a job's id; at most `max_jobs` jobs are active."""
        self.reader = reader
        self._store = store
        self._clock = clock
        self._registry = registry
        self._stepper = stepper
        self._removal = removal
        self._token = token
        self._max_jobs = max_jobs

    async def create(
        self,
        spec: JobSpec,
        idempotency_key: str | None = None,
        posted_by: str = "",
        labels: Labels = NONE,
        team: str = "",
    ) -> tuple[Job, bool]:
        """A new job and True, or the job that was posted with the same key before and False.

        Args:
            posted_by: whose API key it was; sites are told. Empty: nobody was asked for one.
            team: whose job it is; keys of teams are apart. Empty: nobody's.

        Raises:
            IdempotencyConflict: the key was used with another document.
            TooMany: no other job can be active.
        """
        now = self._clock()
        job_id = new_id(now, self._token())
        key = _of_team(idempotency_key, team)
        job = jobs.create(job_id, spec, now, key, secrets.token_hex(32), posted_by, labels, team)
        events = changes(None, job, None, job.reason, posted_by)
        outcome, job_id = await self._store.create(job, events, self._max_jobs)
        reach(Fault.JOB_CREATED)
        if outcome == "full":
            raise _too_many(job_id)
        if outcome == "created":
            journal.write(job_id, events)
            return explain(await self._stepper.ask_sites(job_id), now), True
        return await self._posted_before(job_id, spec, idempotency_key), False

    async def would_create(self, spec: JobSpec, idempotency_key: str | None = None, team: str = "") -> Job | None:
        """Looks whether `create` would take the job: None for a new one, else the job that it would return.

        Raises:
            IdempotencyConflict, TooMany: as `create`.
        """
        key = _of_team(idempotency_key, team)
        if key is not None and (job_id := await self._store.job_of_key(key)) is not None:
            return await self._posted_before(job_id, spec, idempotency_key)
        if (active := len(await self._store.active_ids())) >= self._max_jobs:
            raise _too_many(active)
        return None

    async def _posted_before(self, job_id: str, spec: JobSpec, idempotency_key: str | None) -> Job:
        before = await self.reader.job(job_id)
        if before.spec != spec.model_dump(mode="json"):
            raise IdempotencyConflict(
                f"Idempotency-Key {idempotency_key!r} belongs to job {job_id}, which was posted with another document; "
                "send a new key with a new job"
            )
        return before

    async def pause(self, job_id: str, by: str = "") -> Job:
        """Opens no further round; the round in flight goes on to its end.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is RUNNING, or PAUSED already.
        """
        return await self._send(job_id, Pause(by=by))

    async def resume(self, job_id: str, by: str = "") -> Job:
        """Goes on after a pause.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is PAUSED, or RUNNING already.
        """
        return await self._send(job_id, Resume(by=by))

    async def with_whole_weights(self, job: Job, model: ModelVersion) -> ModelVersion:
        """A version of the job with its whole weights, which the aggregator makes now where there are none.

        Raises:
            BeingMade: they are not there within `WAIT_S`; asking again goes on waiting.
            BlobLost: they cannot be made.
            JobNotFound
        """
        if (made := with_weights(job, model)).weights is not None:
            return made
        loop = asyncio.get_running_loop()
        end = loop.time() + WAIT_S
        await self._send(job.id, WeightsWanted(model.version))
        while True:
            mark = self.reader.mark()
            job = await self.reader.job(job.id)
            if (made := with_weights(job, model)).weights is not None:
                return made
            if problem := job.wishes.get(model.version):
                raise BlobLost(problem)
            if (left := end - loop.time()) <= 0:
                raise BeingMade(
                    f"the aggregator has yet to make the whole weights of version {model.version} of job {job.id}; "
                    "ask again in a few seconds"
                )
            await self.reader.wait_for_change(left, mark)

    async def roll_back(self, job_id: str, version: ModelVersion, by: str = "") -> Job:
        """Goes on from an earlier version; a round in flight is abandoned, and a completed job is paused.

        Raises:
            JobNotFound, VersionNotFound
            IllegalTransition: the job has failed or was cancelled, or cannot go on from this version.
            TooMany: no other job can be active.
        """
        job = await self.reader.job(job_id)
        if job.status.is_final and (active := len(await self._store.active_ids())) >= self._max_jobs:
            raise _too_many(active)
        return await self._send(job_id, RollBack(version, by=by))

    async def cancel(self, job_id: str, by: str = "") -> Job:
        """Ends the job and its round in flight.

        Raises:
            JobNotFound, IllegalTransition: the latter when the job has ended otherwise.
        """
        return await self._send(job_id, Cancel(by=by))

    async def describe(self, job_id: str, tags: tuple[str, ...] | None, description: str | None, by: str = "") -> Job:
        """Gives a job these tags and this description, whatever its status; None leaves them as they are.

        Raises:
            JobNotFound
        """
        return await self._send(job_id, Describe(tags, description, by=by))

    async def delete(self, job_id: str, *, cancel: bool, stored_bytes: Callable[[BlobRef], int | None]) -> int:
        """Takes a job that has ended out of the state, with all that is kept for it.

        Args:
            cancel: a job that has not ended is cancelled first; one whose document cannot be read, or is gone, is
                deleted, too.
            stored_bytes: as the blob store's; blocks.

        Returns:
            Bytes of the blobs that only this job named, which the collector deletes soon; 0 where nobody knows.

        Raises:
            JobNotFound, JobUnreadable
            IllegalTransition: the job has not ended.
        """
        try:
            return await self._deleted(job_id, cancel, stored_bytes)
        except JobUnreadable as error:
            if not cancel:
                raise JobUnreadable(f"{error}; or delete it with cancel=true (`jobs delete --cancel`)") from error
        except JobNotFound:
            if not cancel:
                raise
            if await self._removal.remove(job_id, None, None, ()) == "gone":
                raise
            return 0
        await self._removal.remove(job_id, None, None, ())
        return 0

    async def _deleted(self, job_id: str, cancel: bool, stored_bytes: Callable[[BlobRef], int | None]) -> int:
        while True:
            stored = await self._stepper.load(job_id)
            job = stored.job
            if not job.status.is_final:
                if not cancel:
                    raise IllegalTransition(
                        f"job {job_id} is {job.status}: only a job that has ended can be deleted; cancel it first, or "
                        "delete it with cancel=true (`jobs delete --cancel`)"
                    )
                with suppress(IllegalTransition):  # it has ended meanwhile
                    await self.cancel(job_id)
                continue
            rounds = await self.reader.rounds(job)
            sizes = await asyncio.to_thread(lambda blobs: {b: stored_bytes(b) for b in blobs}, named_by(job, rounds))
            held = {blob: size for blob, size in sizes.items() if size is not None}
            hashes, key = {blob.sha256 for blob in held}, job.idempotency_key or ""
            outcome = await self._removal.remove(job_id, stored.version, key, hashes)
            if outcome != "stale":
                reach(Fault.JOB_REMOVED)
                return sum(held[blob] for blob in held.keys() - await self._named_by_others())

    async def _named_by_others(self) -> set[BlobRef]:
        jobs = await self._store.load_many(await self._store.job_ids(None, ALL_JOBS))
        return set[BlobRef]().union(*map(named_by, jobs))

    async def expect(self, client: str) -> tuple[AgentStatus, bool]:
        """The client of this name, and whether it is new: expected, but not seen yet.

        Raises:
            InvalidAgent: a name that cannot be used.
            AgentNotFound: somebody has removed it meanwhile.
        """
        new = await self._registry.expect(client)
        return await self._agent(client), new

    async def _agent(self, name: str) -> AgentStatus:
        for agent in await self.reader.agents():
            if agent.name == name:
                return agent
        raise AgentNotFound(f"agent {name!r} was removed meanwhile; enter it again")

    async def give_agent(self, name: str, teams: Collection[str]) -> AgentStatus:
        """Gives a client to these teams, and to no others: jobs of other teams ask it no more.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        await self._registry.give(name, teams)
        return await self._agent(name)

    async def forget_agent(self, name: str) -> None:
        """Strikes a client from the list and gives up its open tasks; an agent that still runs has to register anew.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        await self._registry.forget(name)
        await self._stepper.give_up_tasks(name, "removed by the operator")

    async def _send(self, job_id: str, event: JobEvent) -> Job:
        return self._stepper.explained(await self._stepper.send(job_id, event))


def _of_team(idempotency_key: str | None, team: str) -> str | None:
    """A key as it is kept: one team cannot meet another's, since no key has a blank in it."""
    return f"{team} {idempotency_key}" if idempotency_key is not None and team else idempotency_key


def _too_many(active: int | str) -> TooMany:
    return TooMany(f"{active} jobs are active; cancel a job, wait for its end, or raise FEDGALORE_MAX_JOBS")
