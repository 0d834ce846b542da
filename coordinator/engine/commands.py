"""The engine: loads a job, lets the pure machines advance it, saves it by compare-and-set, and tells who waits.

Every door and the aggregator go through it; it holds no state of its own, so any number of processes may each run one
on the same Redis. Whatever a crash leaves undone, the next tick does: nothing depends on an effect having run.

All methods raise `StateUnavailable` when the store does not answer. What users command is here; looking and waiting,
what agents tell, and the coordinator's own work are in `engine_base`, `engine_clients` and `engine_work`.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

from coordinator.engine.clients import ClientSide
from coordinator.engine.work import WorkSide
from coordinator.state import job as jobs
from coordinator.state.changes import changes
from coordinator.state.errors import IdempotencyConflict, RoundClosed, TooMany
from coordinator.state.job_state import Cancel, InRound, Job, Pause, Resume
from coordinator.state.records import AgentStatus
from coordinator.state.round_state import ClientFailed
from fedgalore.process.faults import Fault, reach
from fedgalore.spec.job import JobSpec


class Engine(ClientSide, WorkSide):
    """Jobs, rounds and agents as the doors see them. Belongs to one event loop; close it in the end."""

    async def create(self, spec: JobSpec, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """A new job and True, or the job that the same key made before and False.

        Raises:
            IdempotencyConflict: the key made a job of another document.
            TooMany: no other job can be active.
        """
        now = self._clock()
        job_id = f"job-{int(now * 1000):011x}-{self._token()}"
        job = jobs.create(job_id, spec, now, idempotency_key, secrets.token_hex(32))
        outcome, job_id = await self._store.create(job, changes(None, job, None, job.reason), self._max_jobs)
        reach(Fault.JOB_CREATED)
        if outcome == "full":
            raise TooMany(f"{job_id} jobs are active; cancel one, wait for one, or raise FEDGALORE_MAX_JOBS")
        if outcome == "created":
            return job, True
        before = await self.get(job_id)
        if before.spec != job.spec:
            raise IdempotencyConflict(
                f"Idempotency-Key {idempotency_key!r} belongs to job {job_id}, which was posted with another document; "
                "send a new key with a new job"
            )
        return before, False

    async def pause(self, job_id: str) -> Job:
        """Opens no further round; the one in flight goes on to its end.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is RUNNING, or PAUSED already.
        """
        return (await self._stepper.send(job_id, Pause()))[0]

    async def resume(self, job_id: str) -> Job:
        """Goes on after a pause.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is PAUSED, or RUNNING already.
        """
        await self._stepper.send(job_id, Resume())
        return await self.get(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Ends the job and its round in flight.

        Raises:
            JobNotFound, IllegalTransition: the latter when the job has ended otherwise.
        """
        return (await self._stepper.send(job_id, Cancel()))[0]

    async def expect(self, client: str) -> tuple[AgentStatus, bool]:
        """The client of this name, and whether it is new: expected, but not seen yet.

        Raises:
            InvalidAgent: a name that cannot be used.
        """
        new = await self._agents.expect(client)
        return next(agent for agent in await self.agents() if agent.name == client), new

    async def forget_agent(self, name: str) -> None:
        """Strikes a client from the list and gives up its open tasks; an agent that still runs has to register anew.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        await self._agents.forget(name)
        for job in await self.active_jobs():
            if job.round is not None and name in job.open_clients:
                gone = InRound(job.round.number, ClientFailed(name, "removed by the operator"))
                with suppress(RoundClosed):
                    await self._stepper.send(job.id, gone)
