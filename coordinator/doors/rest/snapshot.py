"""What Prometheus is shown of the shared state, as metrics: the same at every replica, after a restart too."""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from coordinator.state.counters import BUCKETS_S, OUTCOMES
from coordinator.state.job_state import Status
from coordinator.state.round_state import Phase


@dataclass
class State:
    """The shared state as it was read for a scrape.

    `totals`: rounds `committed` and `abandoned`, bytes `up` and `down`. `measured` and `statistics`: of active jobs,
    by job. `counters`: `coordinator.state.counters`. `leases`: whether somebody holds each. `disk`: bytes of the blobs'
    disk, and those that are free; None where nobody knows.
    """

    statuses: Tally[str] = field(default_factory=lambda: Tally(dict.fromkeys(Status, 0)))
    totals: Tally[str] = field(default_factory=lambda: Tally(committed=0, abandoned=0, up=0, down=0))
    present: int = 0
    enrolled: int = 0
    measured: dict[str, Mapping[str, float]] = field(default_factory=dict)
    statistics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    leases: Mapping[str, bool] = field(default_factory=dict)
    refuses: bool = False
    disk: tuple[int, int] | None = None


class Snapshot(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        yield _gauge("fedgalore_jobs", "Jobs by status", "status", state.statuses)
        outcomes = {name: state.totals[name] for name in ("committed", "abandoned")}
        yield _counter("fedgalore_rounds", "Rounds that ended, by outcome", "outcome", outcomes)
        moved = {name: state.totals[name] for name in ("up", "down")}
        yield _counter("fedgalore_client_bytes", "Bytes from (up) and to (down) clients", "direction", moved)
        clients = {outcome: state.counters.get(f"clients|{outcome}", 0.0) for outcome in OUTCOMES.values()}
        yield _counter("fedgalore_round_clients", "Clients of rounds by what became of them", "outcome", clients)
        yield _phases(state.counters)
        yield _aggregation(state.counters)
        yield _of_jobs(
            "fedgalore_job_metric",
            "Of active jobs: what the clients of the last closed round that evaluated measured together",
            "metric",
            state.measured,
        )
        yield _of_jobs(
            "fedgalore_job_statistic",
            "Of active jobs: what the aggregator tells of the newest version, such as joint_rank, and epsilon spent",
            "statistic",
            state.statistics,
        )
        yield _gauge(
            "fedgalore_lease_held",
            "1: a process holds the lease, that is, drives jobs or aggregates",
            "lease",
            state.leases,
        )
        refuses = "1: no blob is deleted, because the state may have lost keys; /readyz says which"
        yield GaugeMetricFamily("fedgalore_collector_refuses", refuses, value=state.refuses)
        yield GaugeMetricFamily("fedgalore_agents_present", "Agents seen lately", value=state.present)
        yield GaugeMetricFamily("fedgalore_agents_enrolled", "Agents that are known", value=state.enrolled)
        if state.disk is not None:
            size, free = state.disk
            yield GaugeMetricFamily("fedgalore_blob_disk_size_bytes", "Of the disk that blobs are on", value=size)
            yield GaugeMetricFamily("fedgalore_blob_disk_free_bytes", "Of that, still to be had", value=free)


def _gauge(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family


def _counter(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family


def _of_jobs(name: str, words: str, label: str, values: Mapping[str, Mapping[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=["job_id", label])
    for job, named in values.items():
        for value, amount in named.items():
            family.add_metric([job, value], amount)
    return family


def _phases(counters: Mapping[str, float]) -> Metric:
    words = "Time of closed rounds in each phase"
    family = HistogramMetricFamily("fedgalore_round_phase_seconds", words, labels=["phase"])
    for phase in (each for each in Phase if not each.is_final):
        buckets = [(le, counters.get(f"phase_seconds|{phase}|{le}", 0.0)) for le in BUCKETS_S]
        family.add_metric([phase], buckets, counters.get(f"phase_seconds_sum|{phase}", 0.0))
    return family


def _aggregation(counters: Mapping[str, float]) -> Metric:
    family = SummaryMetricFamily(
        "fedgalore_aggregation_seconds", "Time of the aggregator by part of its work", labels=["part"]
    )
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for name, amount in counters.items():
        kind, _, part = name.partition("|")
        if kind.startswith("aggregation_seconds_"):
            parts[part][kind.removeprefix("aggregation_seconds_")] = amount
    for part, found in sorted(parts.items()):
        family.add_metric([part], int(found.get("count", 0)), found.get("sum", 0.0))
    return family
