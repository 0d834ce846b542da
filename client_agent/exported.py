"""What an agent tells Prometheus of itself: where it stands, what became of its tasks, whether it is heard."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from client_agent import session as on
from client_agent.session import Session, SessionEvent, SessionState
from fedgalore.process import metrics_page

_LOST = on.Dropped | on.Forgotten | on.Refused | on.Stop


class Exported:
    """The metrics of an agent. `is_heard`: whether the coordinator answers."""

    def __init__(self, is_heard: Callable[[], bool]) -> None:
        self.registry: CollectorRegistry = metrics_page.registry()
        self._state = Gauge("fedgalore_agent_state", "1: it stands there", ["state"], registry=self.registry)
        self._seconds = Counter(
            "fedgalore_agent_state_seconds", "Time in each state", ["state"], registry=self.registry
        )
        self._tasks = Counter(
            "fedgalore_agent_tasks", "Tasks of rounds by how they ended here", ["outcome"], registry=self.registry
        )
        heard = Gauge("fedgalore_agent_coordinator_up", "1: the coordinator answers", registry=self.registry)
        heard.set_function(lambda: float(is_heard()))
        for outcome in ("done", "failed", "dropped"):
            self._tasks.labels(outcome)
        self._since = time.monotonic()
        self._show(SessionState.REGISTERING)

    def moved(self, before: Session, event: SessionEvent, after: Session) -> None:
        """Notes a step of the session."""
        now = time.monotonic()
        self._seconds.labels(before.state).inc(now - self._since)
        self._since = now
        self._show(after.state)
        if before.work is not None and after.work is None and not before.work.checks:
            self._tasks.labels(_outcome(before.state, event)).inc()

    def _show(self, now: SessionState) -> None:
        for state in SessionState:
            self._state.labels(state).set(state is now)


def _outcome(state: SessionState, event: SessionEvent) -> str:
    if state is SessionState.FAILING:
        return "failed"
    return "dropped" if isinstance(event, _LOST) else "done"
