"""What Prometheus reads. Requests and calls are counted in this process; everything else is read from the shared state
at each scrape, so that every replica shows the same totals, after a restart too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from coordinator.doors.grpc import counts
from coordinator.doors.rest.snapshot import Snapshot, State
from coordinator.engine.state_reader import StateReader
from fedgalore.process import metrics_page

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))  # others are counted as one
BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class Metrics:
    """One a process."""

    def __init__(self, reader: StateReader, room: Callable[[], tuple[int, int] | None] = lambda: None) -> None:
        """`room`: as that of the blob store."""
        self._reader, self._room = reader, room
        self._registry = metrics_page.registry()
        self._requests = Counter(
            "fedgalore_http_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "fedgalore_http_request_seconds",
            "Time to answer, streams included",
            ["route"],
            registry=self._registry,
            buckets=BUCKETS_S,
        )

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Counts one request."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(duration_s)

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format.

        Raises:
            StateUnavailable: the state cannot be read.
        """
        snapshot = CollectorRegistry()
        snapshot.register(Snapshot(await self._state()))
        return b"".join(generate_latest(each) for each in (snapshot, self._registry, counts.REGISTRY))

    async def _state(self) -> State:
        state = State()
        state.totals.update(await self._reader.totals_of_deleted())
        for job_id, status, counted in await self._reader.summaries():
            state.statuses[status] += 1
            state.totals.update(
                committed=counted.committed, abandoned=counted.abandoned, up=counted.up, down=counted.down
            )
            if not status.is_final:
                state.measured[job_id], state.statistics[job_id] = counted.metrics, counted.statistics
        agents = await self._reader.presence()
        state.present, state.enrolled = sum(agent.present for agent in agents), len(agents)
        state.counters, state.leases = await self._reader.counters(), await self._reader.leases()
        state.refuses = await self._reader.refusal() is not None
        state.disk = await asyncio.to_thread(self._room)
        return state
