"""The engine's side towards the coordinator's own work: ticks, and what the aggregator begins and ends."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from coordinator.engine.looking import EngineBase, check_finite
from coordinator.state.errors import JobUnreadable, LeaseLost, RoundClosed, StateUnavailable
from coordinator.state.job_state import AggregationFailed, InRound, Job, PreparationFailed, Prepared, PreparedModel
from coordinator.state.round_state import Aggregated, BlobRef, ModelVersion, UpdateLost

log = structlog.get_logger(__name__)


class WorkSide(EngineBase):
    """What the driver and the aggregator call. What writes raises `LeaseLost` when another process has the lease."""

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
            except (StateUnavailable, LeaseLost):
                raise
            except JobUnreadable:
                continue  # the store has told the log
            except Exception:
                log.exception("tick_failed", job=job_id)

    async def prepared(self, job_id: str, prepared: Prepared) -> Job:
        """What became of `model.source`; the job runs. Told twice, it counts once."""
        await self._stepper.drive(job_id, lambda job: None if job.prepared == prepared else PreparedModel(prepared))
        return await self.get(job_id)

    async def preparation_failed(self, job_id: str, reason: str) -> Job:
        """The model cannot be used; the job fails with this reason."""
        return (await self._stepper.drive(job_id, lambda job: PreparationFailed(reason)))[0]

    async def aggregated(
        self,
        job_id: str,
        number: int,
        model: ModelVersion,
        timings: Mapping[str, float],
        statistics: Mapping[str, float],
        dropped: Mapping[str, str] | None = None,
    ) -> Job:
        """Commits a round: one atomic write names the new model version. Told twice, it counts once.

        Args:
            dropped: clients whose updates are not in it, with the reasons.

        Raises:
            JobNotFound, IllegalTransition
            RoundClosed: the round has ended otherwise, such as by a cancelled job; drop the result.
            InvalidUpdate: a timing or statistic is not finite.
        """
        check_finite("timings", timings)
        check_finite("statistics", statistics)
        event = InRound(number, Aggregated(model, dict(timings), dict(statistics), dict(dropped or {})))
        try:
            await self._stepper.drive(job_id, lambda job: event)
        except RoundClosed:
            if (await self._stepper.closed_round(job_id, number)).result != model:
                raise
        return await self.get(job_id)

    async def aggregation_failed(self, job_id: str, number: int, reason: str) -> Job:
        """Abandons a round whose updates cannot be aggregated.

        Raises:
            JobNotFound, RoundClosed
        """
        await self._stepper.drive(job_id, lambda job: AggregationFailed(number, reason))
        return await self.get(job_id)

    async def update_lost(self, job_id: str, number: int, client: str, blob: BlobRef, reason: str) -> Job:
        """Asks a client of a round in AGGREGATION for its update again. Told twice, it counts once.

        Raises:
            JobNotFound, IllegalTransition, RoundClosed
        """
        lost = InRound(number, UpdateLost(client, blob, reason))
        await self._stepper.drive(job_id, lambda job: lost)
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
