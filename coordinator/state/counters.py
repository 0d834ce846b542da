"""What is counted of all jobs together as it happens: of each step, how much is to be added to which counter. Pure.

A counter's name is that of its metric and the values of its labels, parted by `|`:

| name                                       | what                                                          |
|--------------------------------------------|---------------------------------------------------------------|
| `clients|<outcome>`                        | clients of rounds: `OUTCOMES`                                 |
| `phase_seconds|<phase>|<le>`               | closed rounds that were in the phase for at most `le` seconds |
| `phase_seconds_sum|<phase>`                | seconds of closed rounds in the phase                         |
| `aggregation_seconds_sum|<part>`, `_count` | seconds of the aggregator by part of its work, and how often  |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from coordinator.state.round_state import Round
from coordinator.state.stream_events import StreamEvent

OUTCOMES = {
    "client.report": "reported",
    "client.evaluation": "evaluated",
    "client.failure": "failed",
    "client.late": "late",
    "client.dropped": "dropped",
    "client.lost": "lost",
}
BUCKETS_S = ("1", "5", "15", "60", "300", "900", "3600", "14400", "+Inf")


def counted(events: Iterable[StreamEvent], closed: Round | None) -> dict[str, float]:
    """What a step adds. `closed`: the round that it ended."""
    added: Counter[str] = Counter(f"clients|{OUTCOMES[kind]}" for kind, _ in events if kind in OUTCOMES)
    counts: dict[str, float] = dict(added)
    if closed is None:
        return counts
    for (phase, at), (_, after) in pairwise(closed.phase_at.items()):
        spent_s = max(0.0, after - at)
        counts |= {f"phase_seconds|{phase}|{le}": 1.0 for le in BUCKETS_S if spent_s <= float(le)}
        counts[f"phase_seconds_sum|{phase}"] = spent_s
    for part, spent_s in closed.timings.items():
        name = part.removesuffix("_s")
        counts |= {f"aggregation_seconds_sum|{name}": spent_s, f"aggregation_seconds_count|{name}": 1.0}
    return counts
