"""What Prometheus reads. Requests are counted in this process; everything else is read from the shared state at each
scrape, so that every replica shows the same totals, after a restart too."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.engine.state_reader import StateReader
from coordinator.state.job_state import Job, Status
from coordinator.state.round_state import Phase

PAGE = 200
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))  # others are counted as one
BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


@dataclass
class _Totals:
    rounds: Tally[str] = field(default_factory=Tally)
    bytes: Tally[str] = field(default_factory=Tally)


class Metrics:
    """One a process."""

    def __init__(self, reader: StateReader) -> None:
        self._reader = reader
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
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
        self._finished: dict[str, _Totals] = {}  # jobs that are final: they do not change any more

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Counts one request."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(duration_s)

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format.

        Raises:
            StateUnavailable: the state cannot be read.
        """
        statuses: Tally[str] = Tally(dict.fromkeys(Status, 0))
        totals = _Totals(Tally(committed=0, abandoned=0), Tally(up=0, down=0))
        async for job in self._jobs():
            statuses[job.status] += 1
            of_job = await self._totals(job)
            totals.rounds.update(of_job.rounds)
            totals.bytes.update(of_job.bytes)
        present = sum(agent.present for agent in await self._reader.agents())
        snapshot = CollectorRegistry()
        snapshot.register(_Snapshot(statuses, totals, present))
        return generate_latest(snapshot) + generate_latest(self._registry)

    async def _jobs(self) -> AsyncIterator[Job]:
        page = await self._reader.jobs(limit=PAGE)
        while page:
            for job in page:
                yield job
            page = await self._reader.jobs(limit=PAGE, after=page[-1].id) if len(page) == PAGE else []

    async def _totals(self, job: Job) -> _Totals:
        if job.id in self._finished:
            return self._finished[job.id]
        totals = _Totals()
        for each in await self._reader.rounds(job):
            if each.phase.is_final:
                totals.rounds["committed" if each.phase is Phase.COMMITTED else "abandoned"] += 1
        for clients in (await self._reader.traffic(job.id)).values():
            for moved in clients.values():
                totals.bytes.update(moved)
        if job.status.is_final:
            self._finished[job.id] = totals
        return totals


class _Snapshot(Collector):
    def __init__(self, statuses: Tally[str], totals: _Totals, present: int) -> None:
        self._statuses, self._totals, self._present = statuses, totals, present

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("fedgalore_jobs", "Jobs by status", labels=["status"])
        for status, count in self._statuses.items():
            jobs.add_metric([status], count)
        yield jobs
        rounds = CounterMetricFamily("fedgalore_rounds", "Rounds that ended, by outcome", labels=["outcome"])
        for outcome, count in self._totals.rounds.items():
            rounds.add_metric([outcome], count)
        yield rounds
        moved = CounterMetricFamily(
            "fedgalore_client_bytes", "Bytes from (up) and to (down) clients", labels=["direction"]
        )
        for direction, size in self._totals.bytes.items():
            moved.add_metric([direction], size)
        yield moved
        yield GaugeMetricFamily("fedgalore_agents_present", "Agents seen lately", value=self._present)
