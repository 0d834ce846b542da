"""What is counted of jobs for ever, also after they were deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from coordinator.state.round_state import Phase, Round

Traffic = Mapping[int, Mapping[str, Mapping[str, int]]]  # round -> client -> "up" | "down" -> bytes


def counted(rounds: Iterable[Round], traffic: Traffic) -> Counter[str]:
    """Rounds `committed` and `abandoned`, and bytes `up` and `down`, of one job."""
    totals = Counter[str]()
    for each in rounds:
        if each.phase.is_final:
            totals["committed" if each.phase is Phase.COMMITTED else "abandoned"] += 1
    for clients in traffic.values():
        for moved in clients.values():
            totals.update(moved)
    return totals
