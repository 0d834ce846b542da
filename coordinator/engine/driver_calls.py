"""What the driver may do: let time pass for jobs."""

from __future__ import annotations

import structlog

from coordinator.engine.lease import Lease, NoLease
from coordinator.engine.state_reader import StateReader
from coordinator.engine.stepper import Stepper
from coordinator.state.errors import JobNotFound, JobUnreadable, LeaseLost, StateUnavailable
from coordinator.store.redis_state_store import RedisStateStore

log = structlog.get_logger(__name__)


class DriverCalls:
    """What the driver calls. Ticks raise `LeaseLost` when another process holds the lease."""

    def __init__(self, store: RedisStateStore, stepper: Stepper, reader: StateReader, lease: Lease | NoLease) -> None:
        self.reader = reader
        self._store = store
        self._stepper = stepper
        self._lease = lease

    async def leading(self) -> None:
        """Returns when the lease is held; at once where there is none."""
        await self._lease.held()

    async def note_refusal(self, reason: str | None) -> None:
        """Tells every replica why the collector deletes nothing; None: it works."""
        if await self._store.refusal() != reason:
            await self._store.note_refusal(reason)

    async def tick_all(self) -> None:
        """Does what time asks for in every active job: opens a round, chooses its cohort, ends what is overdue.

        No harm in repeating it. A job that breaks must not stop the others' clock.
        """
        for job_id in await self._store.active_ids():
            try:
                await self._stepper.tick(job_id)
            except (StateUnavailable, LeaseLost):
                raise
            except (JobUnreadable, JobNotFound):
                continue  # the store has logged the former; the latter was deleted a moment ago
            except Exception:
                log.exception("tick_failed", job=job_id)
