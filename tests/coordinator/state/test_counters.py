"""What a step of a job adds to the counters of all jobs."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state.counters import BUCKETS_S, counted
from coordinator.state.round_state import Phase, Round

ROUND = Round(
    3, "train", 2, Phase.COMMITTED, "", 10.0, True, phase_at={"SELECTION": 10.0, "REPORTING": 12.0, "COMMITTED": 112.5}
)


def test_clients_are_counted_by_what_became_of_them() -> None:
    events = [(kind, {}) for kind in ("client.late", "client.task", "client.late", "client.report", "round.phase")]
    assert counted(events, None) == {"clients|late": 2, "clients|reported": 1}
    assert counted([], None) == {}


def test_a_closed_round_is_counted_by_its_phases_and_the_aggregators_work() -> None:
    added = counted([], replace(ROUND, timings={"compute_s": 0.5}))
    assert added["phase_seconds_sum|SELECTION"] == 2.0
    assert [le for le in BUCKETS_S if f"phase_seconds|SELECTION|{le}" in added] == list(BUCKETS_S[1:])
    assert added["phase_seconds_sum|REPORTING"] == 100.5
    assert [le for le in BUCKETS_S if f"phase_seconds|REPORTING|{le}" in added] == list(BUCKETS_S[4:])
    assert (added["aggregation_seconds_sum|compute"], added["aggregation_seconds_count|compute"]) == (0.5, 1.0)
    assert not [name for name in added if "COMMITTED" in name]
