"""What happened to a job, in words."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.state.history import line


@pytest.mark.parametrize(
    ("kind", "data", "level", "text"),
    [
        ("job.status", {"status": "PENDING", "reason": "waiting", "by": "ada"}, "info", "submitted by ada: waiting"),
        ("job.status", {"status": "RUNNING", "reason": "soon", "was": "PENDING"}, "info", "running: soon"),
        ("job.status", {"status": "RUNNING", "reason": "soon", "was": "PAUSED"}, "info", "resumed: soon"),
        ("job.status", {"status": "PENDING", "reason": "soon", "was": "PAUSED"}, "info", "resumed: soon"),
        ("job.status", {"status": "PAUSED", "reason": "paused by ada", "was": "RUNNING"}, "warning", "paused by ada"),
        (
            "job.status",
            {"status": "FAILED", "reason": "no such folder", "was": "PENDING"},
            "error",
            "failed: no such f",
        ),
        ("round.phase", {"kind": "train", "phase": "SELECTION", "reason": "waits"}, "info", "round opened: waits"),
        ("round.phase", {"kind": "evaluate", "phase": "REPORTING"}, "debug", "evaluation in REPORTING"),
        ("round.phase", {"kind": "train", "phase": "ABANDONED", "reason": "why"}, "warning", "round abandoned: why"),
        ("client.late", {"reason": "the deadline passed"}, "warning", "too late: the deadline passed"),
        (
            "client.evaluation",
            {"model_version": 2, "metrics": {"loss": 0.12345}},
            "debug",
            "evaluated version 2: loss 0",
        ),
        ("something.new", {}, "info", "something.new"),
    ],
)
def test_an_event_in_words(kind: str, data: dict[str, Any], level: str, text: str) -> None:
    told = line(kind, data)
    assert told.level == level
    assert told.text.startswith(text)
