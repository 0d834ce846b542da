"""The engine's side towards agents: they register, ask for work, and tell what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Literal

from coordinator.engine.looking import EngineBase, check_finite
from coordinator.state import round as rounds
from coordinator.state.errors import (
    InvalidUpdate,
    JobNotFound,
    JobUnreadable,
    NotParticipant,
    RoundClosed,
    RoundNotFound,
)
from coordinator.state.job_state import Job
from coordinator.state.records import RoundTask
from coordinator.state.round_state import (
    ClientFailed,
    Effect,
    Evaluated,
    EvaluationResult,
    Reported,
    TaskTaken,
    UpdateReceipt,
)

MOST_METRICS = 100
MOST_NAME = 200  # characters of a metric's name
MOST_REASON = 2000  # characters of what a client says of its failure


class ClientSide(EngineBase):
    """What the gRPC door calls."""

    async def register(
        self, client: str, protocol_version: int, software_version: str, datasets: dict[str, int]
    ) -> None:
        """Makes a client known, or known again after a restart. `datasets`: training examples by data set.

        Raises:
            ProtocolMismatch, InvalidAgent
        """
        await self._agents.register(client, protocol_version, software_version, datasets)

    async def touch(self, client: str) -> None:
        """Notes a sign of life.

        Raises:
            UnknownClient: it has to register first.
        """
        await self._agents.touch(client)

    async def next_task(self, client: str, wait_s: float = 0.0) -> RoundTask | None:
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
                    if (task := await self._stepper.take(job_id, client)) is not None:
                        return task
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
        rounds.advance(flying, TaskTaken(client), self._clock(), job.policy(flying.kind))
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
        return await self._stepper.tell(job_id, number, Reported(client, receipt))

    async def evaluated(
        self, job_id: str, number: int, client: str, result: EvaluationResult
    ) -> Literal["accepted", "duplicate"]:
        """Notes how the round's model does on a client's data; raises what `report` raises."""
        _check_metrics("evaluation.metrics", result.metrics)
        return await self._stepper.tell(job_id, number, Evaluated(client, result))

    async def client_failed(
        self, job_id: str, number: int, client: str, reason: str
    ) -> Literal["accepted", "duplicate"]:
        """Notes that a client cannot do its task; raises what `report` raises. A long reason loses its end."""
        reason = reason if len(reason) <= MOST_REASON else reason[: MOST_REASON - 1] + "…"
        return await self._stepper.tell(job_id, number, ClientFailed(client, reason))

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

    async def count_traffic(
        self, job_id: str, number: int, client: str, direction: Literal["up", "down"], n_bytes: int
    ) -> None:
        """Adds to the bytes that went between the coordinator and a client on a round's account."""
        await self._store.add_traffic(job_id, number, client, direction, n_bytes)


def _check_metrics(field: str, values: Mapping[str, float]) -> None:
    if len(values) > MOST_METRICS:
        raise InvalidUpdate(f"{field}: has {len(values)} entries; send at most {MOST_METRICS}")
    for name in values:
        if len(name) > MOST_NAME:
            raise InvalidUpdate(f"{field}.{name[:64]}: the name has {len(name)} characters; use at most {MOST_NAME}")
    check_finite(field, values)
