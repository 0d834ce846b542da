"""What the aggregator tells Prometheus of itself. What it makes of rounds is counted with the state: any coordinator
shows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Summary

from fedgalore.process import metrics_page

REGISTRY = metrics_page.registry()
_WORK = Summary("fedgalore_aggregator_work_seconds", "Time of pieces of work that ended", ["piece"], registry=REGISTRY)
_FAILED = Counter("fedgalore_aggregator_work_failed", "Pieces of work that failed", ["piece"], registry=REGISTRY)
_BUSY = Gauge("fedgalore_aggregator_busy", "1: a piece of work is in hand", registry=REGISTRY)


@contextmanager
def timed(piece: str) -> Iterator[None]:
    """Counts a piece of work of this kind."""
    began = time.monotonic()
    with _BUSY.track_inprogress(), _FAILED.labels(piece).count_exceptions():
        yield
    _WORK.labels(piece).observe(time.monotonic() - began)
