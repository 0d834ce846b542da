"""What Prometheus reads. Requests are counted in this process; everything else is read from the shared state at each
scrape, so that every replica shows the same totals, after a restart too."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.engine.state_reader import StateReader
from coordinator.state.job_state import Status

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))  # others are counted as one
BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


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
        totals = Tally(committed=0, abandoned=0, up=0, down=0)
        totals.update(await self._reader.totals_of_deleted())
        measured: dict[str, Mapping[str, float]] = {}
        for job_id, status, counted in await self._reader.summaries():
            statuses[status] += 1
            totals.update(committed=counted.committed, abandoned=counted.abandoned, up=counted.up, down=counted.down)
            if counted.metrics and not status.is_final:
                measured[job_id] = counted.metrics
        refuses = await self._reader.refusal() is not None
        present = sum(agent.present for agent in await self._reader.presence())
        snapshot = CollectorRegistry()
        snapshot.register(_Snapshot(statuses, totals, present, measured, refuses))
        return generate_latest(snapshot) + generate_latest(self._registry)


class _Snapshot(Collector):
    def __init__(
        self,
        statuses: Tally[str],
        totals: Tally[str],
        present: int,
        measured: Mapping[str, Mapping[str, float]],
        refuses: bool,
    ) -> None:
        self._statuses, self._totals, self._present, self._measured = statuses, totals, present, measured
        self._refuses = refuses

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("fedgalore_jobs", "Jobs by status", labels=["status"])
        for status, count in self._statuses.items():
            jobs.add_metric([status], count)
        yield jobs
        rounds = CounterMetricFamily("fedgalore_rounds", "Rounds that ended, by outcome", labels=["outcome"])
        for outcome in ("committed", "abandoned"):
            rounds.add_metric([outcome], self._totals[outcome])
        yield rounds
        moved = CounterMetricFamily(
            "fedgalore_client_bytes", "Bytes from (up) and to (down) clients", labels=["direction"]
        )
        for direction in ("up", "down"):
            moved.add_metric([direction], self._totals[direction])
        yield moved
        quality = GaugeMetricFamily(
            "fedgalore_job_metric",
            "Of active jobs: what the clients of the last closed round that evaluated measured together",
            labels=["job", "metric"],
        )
        for job, metrics in self._measured.items():
            for metric, value in metrics.items():
                quality.add_metric([job, metric], value)
        yield quality
        refuses = "1: no blob is deleted, because the state may have lost keys; /readyz says which"
        yield GaugeMetricFamily("fedgalore_collector_refuses", refuses, value=self._refuses)
        yield GaugeMetricFamily("fedgalore_agents_present", "Agents seen lately", value=self._present)
