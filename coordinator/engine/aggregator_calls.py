"""What the aggregator may do: begin pieces of work and say what became of them; and look, by `reader`."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.engine.lease import Lease, NoLease
from coordinator.engine.state_reader import StateReader
from coordinator.engine.stepper import Stepper
from coordinator.state.errors import LeaseLost, RoundNotInFlight
from coordinator.state.job_events import (
    AggregationFailed,
    InRound,
    LoadedBack,
    PreparationFailed,
    PreparedModel,
    WeightsLost,
    WeightsMade,
)
from coordinator.state.job_state import Job, Prepared
from coordinator.state.limits import check_finite
from coordinator.state.round_state import Aggregated, ModelVersion, UpdateLost
from coordinator.state.steps import Decide
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.alignment import Alignment
from fedgalore.process.blob_ref import BlobRef


class AggregatorCalls:
    """What the aggregator calls. What writes raises `LeaseLost` when another process holds the lease."""

    def __init__(self, store: RedisStateStore, stepper: Stepper, reader: StateReader, lease: Lease | NoLease) -> None:
        self.reader = reader
        self._store = store
        self._stepper = stepper
        self._lease = lease

    async def leading(self) -> None:
        """Returns when the lease is held; at once where there is none."""
        await self._lease.held()

    async def keep_lease(self) -> None:
        """Takes the lease and renews it, until it is cancelled."""
        await self._lease.keep()

    async def prepared(self, job_id: str, prepared: Prepared) -> Job:
        """Gives the job what became of `model.source`, so that it runs. A second time changes nothing."""
        return await self._drive(job_id, lambda job: None if job.prepared == prepared else PreparedModel(prepared))

    async def preparation_failed(self, job_id: str, reason: str) -> Job:
        """The model cannot be used; the job fails with this reason."""
        return await self._drive(job_id, lambda job: PreparationFailed(reason))

    async def aggregated(
        self,
        job_id: str,
        number: int,
        model: ModelVersion,
        timings: Mapping[str, float],
        statistics: Mapping[str, float],
        dropped: Mapping[str, str] | None = None,
        alignment: Mapping[str, Alignment] | None = None,
    ) -> Job:
        """Commits a round: an atomic write names the new model version. A second time changes nothing.

        Args:
            dropped: clients whose updates are not in it, with the reasons.
            alignment: by layer, what the clients' optimizer states share.

        Raises:
            JobNotFound, IllegalTransition
            RoundClosed: the round has ended otherwise, such as by a cancelled job; drop the result.
            InvalidUpdate: a timing or statistic is not finite.
        """
        check_finite("timings", timings)
        check_finite("statistics", statistics)
        for layer, found in (alignment or {}).items():
            check_finite(f"alignment.{layer}", {"joint_rank": found.joint_rank, **found.explained})
        measured = (dict(timings), dict(statistics), dict(dropped or {}), dict(alignment or {}))
        event = InRound(number, Aggregated(model, *measured))
        try:
            return await self._drive(job_id, lambda job: event)
        except RoundNotInFlight:
            if (await self._stepper.closed_round(job_id, number)).result != model:
                raise
            return await self.reader.job(job_id)

    async def aggregation_failed(
        self, job_id: str, number: int, reason: str, lost: bool = False, dropped: Mapping[str, str] | None = None
    ) -> Job:
        """Abandons a round whose updates cannot be aggregated.

        Args:
            lost: the coordinator itself has lost what that takes; the job is paused.
            dropped: clients whose updates cannot be taken, with the reasons.

        Raises:
            JobNotFound, RoundClosed
        """
        return await self._drive(job_id, lambda job: AggregationFailed(number, reason, lost, dict(dropped or {})))

    async def loaded_back(self, job_id: str, event: LoadedBack) -> Job:
        """Ends a job whose final model was loaded back, or could not be looked at.

        Raises:
            JobNotFound
            IllegalTransition: it has ended already, or was rolled back to another version.
        """
        return await self._drive(job_id, lambda job: event)

    async def weights_made(self, job_id: str, version: int, weights: BlobRef) -> Job:
        """Gives a job the whole weights of one of its versions."""
        return await self._drive(job_id, lambda job: WeightsMade(version, weights))

    async def weights_lost(self, job_id: str, version: int, reason: str) -> Job:
        """Says why the whole weights of a version cannot be made. A job that cannot end without them is paused."""
        return await self._drive(job_id, lambda job: WeightsLost(version, reason))

    async def update_lost(self, job_id: str, number: int, client: str, blob: BlobRef, reason: str) -> Job:
        """Asks a client of a round in AGGREGATION for its update again. A second time changes nothing.

        Raises:
            JobNotFound, IllegalTransition, RoundClosed
        """
        lost = InRound(number, UpdateLost(client, blob, reason))
        return await self._drive(job_id, lambda job: lost)

    async def begin_attempt(self, job_id: str, piece: str, round: int | None = None) -> int:
        """Counts that the aggregator begins a piece of a job, such as `round <number>`, before it does.

        Args:
            round: whose updates the piece aggregates.

        Returns:
            How often the piece was begun, this time included; 0 where it is no longer to be done.
        """
        counted = await self._store.beside.begin_attempt(job_id, piece, round, self._lease.fence)
        if counted == "fenced":
            self._lease.drop()
            raise LeaseLost(f"job {job_id}: another process has taken over; it begins {piece}")
        return counted

    async def forget_attempts(self, job_id: str, piece: str) -> None:
        """Counts anew: the piece is done, or was stopped by something else than what it does."""
        await self._store.beside.forget_attempts(job_id, piece)

    async def _drive(self, job_id: str, decide: Decide) -> Job:
        return self._stepper.explained(await self._stepper.drive(job_id, decide))
