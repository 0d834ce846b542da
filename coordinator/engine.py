"""The engine: loads a job, lets the pure machines advance it, saves it by compare-and-set, and tells who waits.

Every door and the aggregator go through it; it holds no state of its own, so any number of processes may each run one
on the same Redis. Whatever a crash leaves undone, the next tick does: nothing depends on an effect having run.

All methods raise `StateUnavailable` when the store does not answer.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import isfinite
from typing import Any, Literal

import structlog

from coordinator import job as jobs
from coordinator import round as rounds
from coordinator.agents import AgentRegistry
from coordinator.changes import changes
from coordinator.errors import (
    IdempotencyConflict,
    InvalidUpdate,
    JobNotFound,
    JobUnreadable,
    NotParticipant,
    RoundClosed,
    RoundNotFound,
    StateUnavailable,
)
from coordinator.job import Job, Prepared, Status
from coordinator.records import Agent, Assignment
from coordinator.round import Effect, EvaluationResult, ModelVersion, Round, UpdateReceipt
from coordinator.state_store import StateStore
from coordinator.stepper import Stepper
from fedgalore.job_spec import JobSpec

EVENT_BATCH = 500
MOST_METRICS = 100
MOST_NAME = 200  # characters of a metric's name
MOST_REASON = 2000  # characters of what a client says of its failure
_EVENT_ID = re.compile(r"\d{1,18}(-\d{1,18})?")
log = structlog.get_logger(__name__)

# Inside the class, `list` is the method.
_Jobs = list[Job]
_Rounds = list[Round]
_Agents = list[Agent]
_Events = list[tuple[str, str, dict[str, Any]]]


class Engine:
    """Jobs, rounds and agents as the doors see them. Belongs to one event loop; close it in the end.

    A job whose document can not be read is left out wherever many are looked at, and `JobUnreadable` where it is named.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Callable[[], float] = time.time,
        presence_s: float = 30.0,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self._store = store
        self._clock = clock
        self.presence_s = presence_s
        self._token = token
        self._agents = AgentRegistry(store, clock, presence_s)
        self._stepper = Stepper(store, clock, self._agents)

    async def check(self) -> None:
        """Returns when the state store answers."""
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()

    # --- jobs -------------------------------------------------------------------------------------------------------

    async def create(self, spec: JobSpec, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """A new job and True, or the job that the same key made before and False.

        Raises:
            IdempotencyConflict: the key made a job of another document.
        """
        now = self._clock()
        job = jobs.create(f"job-{int(now * 1000):011x}-{self._token()}", spec, now, idempotency_key)
        outcome, job_id = await self._store.create(job, changes(None, job, None, job.reason))
        if outcome == "created":
            return job, True
        before = await self.get(job_id)
        if before.spec != job.spec:
            raise IdempotencyConflict(
                f"Idempotency-Key {idempotency_key!r} belongs to job {job_id}, which was posted with another document; "
                "send a new key with a new job"
            )
        return before, False

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

    async def pause(self, job_id: str) -> Job:
        """Opens no further round; the one in flight goes on to its end.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is RUNNING, or PAUSED already.
        """
        return (await self._stepper.send(job_id, jobs.Pause()))[0]

    async def resume(self, job_id: str) -> Job:
        """Goes on after a pause.

        Raises:
            JobNotFound, IllegalTransition: the latter unless the job is PAUSED, or RUNNING already.
        """
        await self._stepper.send(job_id, jobs.Resume())
        return await self.get(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Ends the job and its round in flight.

        Raises:
            JobNotFound, IllegalTransition: the latter when the job has ended otherwise.
        """
        return (await self._stepper.send(job_id, jobs.Cancel()))[0]

    async def prepared(self, job_id: str, prepared: Prepared) -> Job:
        """What became of `model.source`; the job runs. Told twice, it counts once."""
        await self._stepper.apply(
            job_id, lambda job: None if job.prepared == prepared else jobs.PreparedModel(prepared)
        )
        return await self.get(job_id)

    async def preparation_failed(self, job_id: str, reason: str) -> Job:
        """The model can not be used; the job fails with this reason."""
        return (await self._stepper.send(job_id, jobs.PreparationFailed(reason)))[0]

    # --- rounds -----------------------------------------------------------------------------------------------------

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

    async def tick(self, job_id: str) -> None:
        """Does what time asks for: opens a round, chooses its cohort, ends what is overdue. No harm in repeating it.

        Raises:
            JobNotFound: there is no such job.
        """
        await self._stepper.tick(job_id)

    async def tick_all(self) -> None:
        """Ticks every active job; one that breaks must not stop the others' clock."""
        for job_id in await self._store.active_ids():
            try:
                await self._stepper.tick(job_id)
            except StateUnavailable:
                raise
            except JobUnreadable:
                continue  # the store has told the log
            except Exception:
                log.exception("tick_failed", job=job_id)

    async def aggregated(
        self,
        job_id: str,
        number: int,
        model: ModelVersion,
        timings: Mapping[str, float],
        statistics: Mapping[str, float],
    ) -> Job:
        """Commits a round: one atomic write names the new model version. Told twice, it counts once.

        Raises:
            JobNotFound, IllegalTransition
            RoundClosed: the round has ended otherwise, such as by a cancelled job; drop the result.
            InvalidUpdate: a timing or statistic is not finite.
        """
        _check_finite("timings", timings)
        _check_finite("statistics", statistics)
        event = jobs.RoundEvent(number, rounds.Aggregated(model, dict(timings), dict(statistics)))
        try:
            await self._stepper.send(job_id, event)
        except RoundClosed:
            if (await self._stepper.closed_round(job_id, number)).result != model:
                raise
        return await self.get(job_id)

    async def aggregation_failed(self, job_id: str, number: int, reason: str) -> Job:
        """Abandons a round whose updates can not be aggregated.

        Raises:
            JobNotFound, RoundClosed
        """
        await self._stepper.send(job_id, jobs.AggregationFailed(number, reason))
        return await self.get(job_id)

    async def begin_attempt(self, job_id: str, piece: str) -> int:
        """Counts that the aggregator begins a piece of a job (`prepare` or `round <number>`), before it does.

        Returns:
            How often it has begun it, this time included; 1 when nothing is known of earlier ones.
        """
        return await self._store.begin_attempt(job_id, piece)

    async def forget_attempts(self, job_id: str, piece: str) -> None:
        """The piece is done, or was not stopped by what it does."""
        await self._store.forget_attempts(job_id, piece)

    # --- agents -----------------------------------------------------------------------------------------------------

    async def register(
        self, client: str, protocol_version: int, software_version: str, datasets: dict[str, int]
    ) -> None:
        """Makes a client known, or known again after a restart. `datasets`: training examples by data set.

        Raises:
            ProtocolMismatch, InvalidAgent
        """
        await self._agents.register(client, protocol_version, software_version, datasets)

    async def enrol(self, client: str) -> tuple[Agent, bool]:
        """The client of this name, and whether it is new: expected, but not seen yet.

        Raises:
            InvalidAgent: a name that can not be used.
        """
        new = await self._agents.enrol(client)
        return next(agent for agent in await self.agents() if agent.name == client), new

    async def touch(self, client: str) -> None:
        """Notes a sign of life.

        Raises:
            UnknownClient: it has to register first.
        """
        await self._agents.touch(client)

    async def agents(self) -> _Agents:
        """Every enrolled client, by name."""
        return await self._agents.all(await self.active_jobs())

    async def forget_agent(self, name: str) -> None:
        """Strikes a client from the list and gives up its open tasks; an agent that still runs has to register anew.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        await self._agents.forget(name)
        for job in await self.active_jobs():
            if job.round is not None and name in job.open_clients:
                gone = jobs.RoundEvent(job.round.number, rounds.ClientFailed(name, "removed by the operator"))
                with suppress(RoundClosed):
                    await self._stepper.send(job.id, gone)

    async def next_task(self, client: str, wait_s: float = 0.0) -> Assignment | None:
        """Work for the client, waiting up to `wait_s` for some. Until it has reported it is given the same task again.

        Raises:
            UnknownClient: it has to register first.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            mark = self.mark(Effect.WAKE_AGENTS)
            for job_id in await self._agents.touch(client):
                with suppress(JobUnreadable):
                    if (assignment := await self._stepper.take(job_id, client)) is not None:
                        return assignment
            left = end - loop.time()
            if left <= 0:
                return None
            # A waiting client is present: it must look in often enough to stay so.
            await self.wait_for_change(min(left, self.presence_s / 3), mark, Effect.WAKE_AGENTS)

    async def open_round(self, job_id: str, number: int, client: str) -> Job:
        """The job, if its round `number` is in flight and takes reports of this client; ask before accepting bytes.

        Raises:
            UnknownClient, JobNotFound, RoundNotFound, RoundClosed, NotParticipant
        """
        await self._agents.touch(client)
        job = (await self._stepper.load(job_id)).job
        flying = job.round
        if flying is None or flying.number != number:
            flying = await self._stepper.closed_round(job_id, number)
        rounds.advance(flying, rounds.TaskTaken(client), self._clock(), job.policy(flying.kind))
        return job

    async def receipt(self, job_id: str, number: int, client: str) -> UpdateReceipt | None:
        """The update that a round holds of this client, whether the round is in flight or closed.

        Raises:
            JobNotFound, RoundNotFound
        """
        participant = (await self.round(job_id, number)).participants.get(client)
        return participant.receipt if participant else None

    async def report(
        self, job_id: str, number: int, client: str, receipt: UpdateReceipt
    ) -> Literal["accepted", "duplicate"]:
        """Notes an update that is safe on disk. A second one, equal or not, is a duplicate: the first one stands.

        Raises:
            UnknownClient, JobNotFound, RoundNotFound, RoundClosed, NotParticipant
            InvalidUpdate: a metric is not finite, or there are too many.
        """
        _check_metrics("metrics", receipt.metrics)
        return await self._stepper.tell(job_id, number, rounds.Reported(client, receipt))

    async def evaluated(
        self, job_id: str, number: int, client: str, result: EvaluationResult
    ) -> Literal["accepted", "duplicate"]:
        """Notes how the round's model does on a client's data; raises what `report` raises."""
        _check_metrics("evaluation.metrics", result.metrics)
        return await self._stepper.tell(job_id, number, rounds.Evaluated(client, result))

    async def client_failed(
        self, job_id: str, number: int, client: str, reason: str
    ) -> Literal["accepted", "duplicate"]:
        """Notes that a client can not do its task; raises what `report` raises. A long reason loses its end."""
        reason = reason if len(reason) <= MOST_REASON else reason[: MOST_REASON - 1] + "…"
        return await self._stepper.tell(job_id, number, rounds.ClientFailed(client, reason))

    async def progress(
        self, job_id: str, number: int, client: str, stage: str, step: int, train_loss: float | None
    ) -> tuple[bool, str]:
        """Notes what a client is doing; whether it should go on, and if not, why.

        Raises:
            UnknownClient: it has to register first.
        """
        waited_for = job_id in await self._agents.touch(client)
        if not (waited_for and await self._store.round_in_flight(job_id) == number):
            # Seldom, so the job is read only here: to tell why, or that all is well though the task is done.
            try:
                await self.open_round(job_id, number, client)
            except (JobNotFound, RoundNotFound, RoundClosed, NotParticipant) as error:
                return False, str(error)
        loss = train_loss if train_loss is not None and isfinite(train_loss) else None
        said = {"round": number, "stage": stage, "step": step, "train_loss": loss, "at": self._clock()}
        await self._store.set_progress(job_id, client, said)
        return True, ""

    async def live_progress(self, job_id: str) -> dict[str, dict[str, Any]]:
        """By client: round, stage, step, train_loss (None: none that is finite) and at, of the round in flight."""
        return await self._store.progress(job_id)

    async def count_traffic(
        self, job_id: str, number: int, client: str, direction: Literal["up", "down"], n_bytes: int
    ) -> None:
        """Adds to the bytes that went between the coordinator and a client on a round's account."""
        await self._store.add_traffic(job_id, number, client, direction, n_bytes)

    async def traffic(self, job_id: str) -> dict[int, dict[str, dict[str, int]]]:
        """Bytes by round, client and direction: `{3: {"a": {"up": 10, "down": 20}}}`."""
        return await self._store.traffic(job_id)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def mark(self, topic: str = "") -> int:
        """Note it before looking at the state, and pass it to `wait_for_change`: then no change is missed."""
        return self._store.mark(topic)

    async def wait_for_change(self, timeout_s: float, since: int | None = None, topic: str = "") -> bool:
        """Waits for a save by any process, of the topic (an `Effect`) or at all; False when the time ran out."""
        return await self._store.wait(timeout_s, since, topic)

    async def events(self, job_id: str, after: str = "0", block_s: float | None = None) -> _Events:
        """Up to 500 rows (id, type, data) after the id `after`, waiting up to `block_s` for the first.

        What the types mean: `coordinator.changes`. An `after` that is no event id counts as the beginning.

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


def _check_metrics(field: str, values: Mapping[str, float]) -> None:
    if len(values) > MOST_METRICS:
        raise InvalidUpdate(f"{field}: has {len(values)} entries; send at most {MOST_METRICS}")
    for name in values:
        if len(name) > MOST_NAME:
            raise InvalidUpdate(f"{field}.{name[:64]}: the name has {len(name)} characters; use at most {MOST_NAME}")
    _check_finite(field, values)


def _check_finite(field: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not isfinite(value):
            raise InvalidUpdate(
                f"{field}.{name}: is {value}, not a finite number; a run that has diverged needs a lower learning rate"
            )
