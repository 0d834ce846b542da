"""Which values of which rounds a tracker is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedgalore.client.records import COLUMNS
from fedgalore.client.shapes import Round
from fedgalore.tracking.mapping import Run, Steps

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def row(number: int, client: str | None, source: str, metric: str, value: float) -> dict[str, Any]:
    return dict(zip(COLUMNS, (number, number - 1, client, source, metric, value), strict=True))


def a_round(number: int, phase: str) -> Round:
    nothing = dict.fromkeys(("result_version", "evaluation", "held_out", "held_out_failure"))
    empty = {name: {} for name in ("participants", "statistics", "alignment", "timings")}
    moved = dict.fromkeys(("up_bytes", "down_bytes", "dense_bytes"), 0)
    seconds = {"SELECTION": 1.5, "REPORTING": 2.0}
    return Round.model_validate(
        {"number": number, "kind": "train", "phase": phase, "reason": "", "model_version": number - 1}
        | {"phase_at": {phase: AT}, "phase_s": seconds, **nothing, **empty, **moved}
    )


ROWS = [
    row(1, None, "evaluation", "accuracy", 0.5),
    row(1, "north", "evaluation", "accuracy", 0.25),
    row(1, None, "server", "epsilon", 1.5),
    row(1, None, "traffic", "up_bytes", 100),
    row(2, None, "traffic", "up_bytes", 50),
    row(2, None, "evaluation", "loss", float("inf")),
    row(3, None, "evaluation", "accuracy", 0.75),
]


def test_a_round_is_told_when_it_has_closed_and_once() -> None:
    steps = Steps()
    first, second = steps.of_rounds([a_round(1, "COMMITTED"), a_round(2, "ABANDONED"), a_round(3, "REPORTING")], ROWS)
    assert (first.number, first.at) == (1, AT.timestamp())
    assert first.values == {
        "evaluation/accuracy": 0.5,
        "evaluation_by_client/accuracy/north": 0.25,
        "server/epsilon": 1.5,
        "traffic/up_bytes": 100,
        "traffic/up_bytes_so_far": 100,
        "traffic/down_bytes_so_far": 0,
        "round/model_version": 0,
        "round/seconds": 3.5,
        "round/reports": 0,
        "round/abandoned": 0,
        "round/number": 1,
    }
    assert second.values["traffic/up_bytes_so_far"] == 150
    assert second.values["round/abandoned"] == 1
    assert "evaluation/loss" not in second.values
    (third,) = steps.of_rounds([a_round(2, "ABANDONED"), a_round(3, "COMMITTED")], ROWS)
    assert (third.number, third.values["evaluation/accuracy"]) == (3, 0.75)
    assert steps.of_rounds([a_round(3, "COMMITTED")], ROWS) == []


def test_rounds_of_a_simulation_are_closed() -> None:
    steps = Steps()
    assert [step.number for step in steps.of_rows(ROWS, 7.0)] == [1, 2, 3]
    assert steps.of_rows(ROWS[:1], 8.0) == []


def test_a_document_is_flat() -> None:
    document = {"name": "wards", "method": {"rank": 8, "train_also": ["norm"]}, "privacy": None, "local": {}}
    assert Run("a", "wards", document).params == {
        "name": "wards",
        "method.rank": 8,
        "method.train_also": '["norm"]',
        "privacy": "null",
        "local": "{}",
    }
