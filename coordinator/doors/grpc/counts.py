"""How the calls of the agents' door end, counted in this process for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

REGISTRY = CollectorRegistry()
CALLS = Counter(
    "fedgalore_agent_calls",
    "Calls of agents that were answered: by the code of the refusal, or ok",
    ["method", "code"],
    registry=REGISTRY,
)
