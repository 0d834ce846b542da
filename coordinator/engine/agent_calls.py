"""What an agent may do: register, ask for work, and say what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Literal

from coordinator.engine.registry import ClientRegistry, known
from coordinator.engine.stepper import Recorded, Stepper
from coordinator.state.admission import Admitted, Duplicate, admit, check_open
from coordinator.state.errors import (
    IllegalTransition,
    JobNotFound,
    JobTooNew,
    JobUnreadable,
    NotParticipant,
    RoundClosed,
    RoundNotFound,
)
from coordinator.state.job_events import SiteChecked
from coordinator.state.job_state import Job
from coordinator.state.limits import check_counts, check_metrics, shortened
from coordinator.state.records import NOBODY, CheckTask, Instance, RoundTask
from coordinator.state.round_state import (
    ClientFailed,
    Effect,
    Evaluated,
    EvaluationResult,
    Reported,
    Round,
    UpdateReceipt,
)
from coordinator.state.sites import SiteFacts
from coordinator.store.redis_state_store import RedisStateStore


class AgentCalls:
    """What the agents' door calls. A client counts as present for `presence_s` after its last sign of life.

    `instance`: the agent that speaks for the client; None where that is not to be looked at.
    """

    def __init__(
        self,
        store: RedisStateStore,
        clock: Callable[[], float],
        registry: ClientRegistry,
        stepper: Stepper,
        presence_s: float,
    ) -> None:
        self.presence_s = presence_s
        self._store = store
        self._clock = clock
        self._registry = registry
        self._stepper = stepper

    async def register(
        self,
        client: str,
        protocol_version: int,
        software_version: str,
        datasets: dict[str, int],
        instance: Instance = NOBODY,
        oldest_protocol_version: int = 0,
    ) -> int:
        """Makes a client known, or known again after a restart; the newest protocol version that both sides speak.

        Args:
            datasets: training examples by data set.
            oldest_protocol_version: that the agent speaks; 0: `protocol_version` alone.

        Raises:
            ProtocolMismatch, InvalidAgent
            NameTaken: an agent of another folder speaks for the client, and is present.
        """
        versions = protocol_version, software_version
        common = await self._registry.register(client, *versions, datasets, instance, oldest_protocol_version)
        await self._stepper.ask_site(datasets)
        return common

    async def check_free(self, client: str, instance: Instance) -> None:
        """Raises `NameTaken` where an agent of another folder speaks for the client, and is present."""
        await self._registry.check_free(client, instance)

    async def check_instance(self, client: str, instance: Instance) -> None:
        """Raises `NameTaken` where another process has registered as this client since this one did."""
        await self._registry.check_instance(client, instance)

    async def withdraw(self, client: str) -> None:
        """Takes back the registration of a client that was revoked meanwhile, and gives up its open tasks.

        Raises:
            AgentNotFound: nobody of that name is enrolled.
        """
        await self._registry.forget(client)
        await self._stepper.give_up_tasks(client, "removed by the operator")

    async def next_task(
        self, client: str, wait_s: float = 0.0, instance: Instance | None = None
    ) -> RoundTask | CheckTask | None:
        """Work for the client, waiting up to `wait_s` for some; the same task again until the client has reported.

        Checks go first: they take seconds, and other sites may wait for them.

        Raises:
            UnknownClient: it has to register first.
            NameTaken: as `check_instance`.
            JobTooNew: a replica that is upgraded has work for it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            mark = self._store.mark(Effect.WAKE_AGENTS)
            waiting, too_new = await self._registry.waiting(client, instance), None
            for job_id in waiting.checks:
                try:
                    with suppress(JobNotFound):  # it was deleted a moment ago
                        if client in (job := (await self._stepper.load(job_id)).job).unanswered:
                            return CheckTask(job)
                except JobTooNew as error:
                    too_new = error
                except JobUnreadable:
                    continue
            for job_id in waiting.tasks:
                try:
                    with suppress(JobNotFound):
                        if (task := await self._stepper.take(job_id, client)) is not None:
                            return task
                except JobTooNew as error:
                    too_new = error
                except JobUnreadable:
                    continue
            if too_new is not None:
                raise too_new
            left = end - loop.time()
            if left <= 0:
                return None
            # A waiting client is present: it must look in often enough to stay so.
            await self._store.wait(min(left, self.presence_s / 3), mark, Effect.WAKE_AGENTS)

    async def job_of(self, job_id: str, client: str) -> Job:
        """A job on data that the client has; no sign of life. The answer tells of no other job that it is there.

        Raises:
            UnknownClient, JobNotFound
        """
        datasets = await self._registry.datasets(client)
        try:
            job = (await self._stepper.load(job_id)).job
        except (JobNotFound, JobUnreadable):
            job = None
        given = job is not None and await self._registry.is_given(client, job.team)
        if job is None or not given or job.parsed.data.name not in datasets:
            raise JobNotFound(
                f"there is no job {job_id} on data that {client} has registered with; look at the id, or add the job's "
                "data set to the agent's config and start the agent once"
            )
        return job

    async def check_open(self, job_id: str, number: int, client: str, instance: Instance | None = None) -> Job:
        """The job, when its round `number` is in flight and takes something more of this client.

        Raises:
            NameTaken, UnknownClient, JobNotFound, RoundNotFound, RoundClosed, NotParticipant
        """
        contact = await self._registry.touch(client, instance, job_id)
        known(client, contact)
        job = self._stepper.read(job_id, contact.stored)
        check_open(await self._stepper.round(job, number), client)
        return job

    async def admit(
        self, job_id: str, number: int, client: str, instance: Instance | None = None
    ) -> Admitted | Duplicate:
        """What becomes of an update of this client: ask before accepting bytes.

        Raises:
            NameTaken, UnknownClient, JobNotFound, RoundNotFound, RoundClosed, NotParticipant
        """
        contact = await self._registry.touch(client, instance, job_id)
        job = self._stepper.read(job_id, contact.stored)
        asked_for = await self._stepper.round(job, number)
        if not asked_for.holds_update(client):
            known(client, contact)
        admitted = admit(job, asked_for, client)
        if isinstance(admitted, Duplicate):  # whoever hears that deletes its copy
            await self._store.connection.confirm()
        return admitted

    async def report(
        self, job_id: str, number: int, client: str, receipt: UpdateReceipt, instance: Instance | None = None
    ) -> Recorded:
        """Notes an update that is safe on disk. Another update, equal or not, is a duplicate: the first stands.

        Raises:
            NameTaken, UnknownClient, JobNotFound, RoundNotFound, RoundClosed, NotParticipant
            InvalidUpdate: a metric is not finite, or there are too many.
        """
        check_metrics("metrics", receipt.metrics)
        return await self._record(job_id, number, Reported(client, receipt), instance)

    async def evaluated(
        self, job_id: str, number: int, client: str, result: EvaluationResult, instance: Instance | None = None
    ) -> Recorded:
        """Notes how the round's model does on a client's data; raises what `report` raises."""
        check_metrics("evaluation.metrics", result.metrics)
        check_counts("evaluation.counts", result.counts)
        return await self._record(job_id, number, Evaluated(client, result), instance)

    async def client_failed(
        self,
        job_id: str,
        number: int,
        client: str,
        reason: str,
        instance: Instance | None = None,
        code: str | None = None,
    ) -> Recorded:
        """Notes that a client cannot do its task; raises what `report` raises. A long reason loses its end."""
        return await self._record(job_id, number, ClientFailed(client, shortened(reason), code), instance)

    async def _record(
        self, job_id: str, number: int, event: Reported | Evaluated | ClientFailed, instance: Instance | None
    ) -> Recorded:
        await self._registry.waiting(event.client, instance)
        recorded = await self._stepper.record(job_id, number, event)
        if recorded.outcome == "duplicate":
            await self._store.connection.confirm()
        return recorded

    async def site_checked(
        self,
        job_id: str,
        client: str,
        problem: str | None,
        facts: SiteFacts | None,
        instance: Instance | None = None,
        code: str | None = None,
    ) -> None:
        """Notes whether a client's data fit a job. A second answer, or one to a job that has ended, changes nothing.

        Args:
            code: of the problem, for machines.

        Raises:
            NameTaken, UnknownClient, JobNotFound
        """
        contact = await self._registry.touch(client, instance, job_id)
        known(client, contact)
        if not self._stepper.read(job_id, contact.stored).status.is_final:
            answer = SiteChecked(client, shortened(problem) if problem is not None else None, facts, code)
            with suppress(IllegalTransition):  # it has ended meanwhile
                await self._stepper.send(job_id, answer)

    async def progress(
        self,
        job_id: str,
        number: int,
        client: str,
        stage: str,
        step: int,
        train_loss: float | None,
        seen: Round | None = None,
        instance: Instance | None = None,
    ) -> tuple[bool, str]:
        """Notes what a client is doing; whether it should go on, and if not, why.

        Args:
            seen: the round as the caller has just seen it, which spares looking.

        Raises:
            UnknownClient: it has to register first.
            NameTaken: as `check_instance`.
        """
        waited_for = job_id in (await self._registry.waiting(client, instance)).tasks
        try:
            if seen is not None:
                check_open(seen, client)
            elif not (waited_for and await self._store.round_in_flight(job_id) == number):
                # Seldom, so the job is read only here: to say why, or that all is well though the task is done.
                job = (await self._stepper.load(job_id)).job
                check_open(await self._stepper.round(job, number), client)
        except (JobNotFound, RoundNotFound, RoundClosed, NotParticipant) as error:
            return False, str(error)
        loss = train_loss if train_loss is not None and isfinite(train_loss) else None
        progress = {"round": number, "stage": stage, "step": step, "train_loss": loss, "at": self._clock()}
        await self._store.beside.set_progress(job_id, client, progress)
        return True, ""

    async def count_traffic(
        self, job_id: str, number: int, client: str, direction: Literal["up", "down"], n_bytes: int
    ) -> None:
        """Adds to the bytes that went between the coordinator and a client on a round's account."""
        await self._store.beside.add_traffic(job_id, number, client, direction, n_bytes)
