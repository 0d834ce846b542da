"""No kind of line fills a disk."""

from __future__ import annotations

import logging
from typing import Any

from fedgalore.process.log_brake import MOST, WINDOW_S, Brake


def record(event: Any, at: float, level: int = logging.WARNING, logger: str = "door") -> logging.LogRecord:
    made = logging.LogRecord(logger, level, "", 0, event, None, None)
    made.created = at
    return made


def test_of_a_kind_so_many_lines_a_minute_are_written_and_the_next_says_how_many_were_not() -> None:
    brake = Brake()
    passed = [brake.filter(record({"event": "agent_refused", "client": str(n)}, n / 1000)) for n in range(MOST + 50)]
    assert sum(passed) == MOST
    assert passed[:MOST] == [True] * MOST
    assert brake.filter(record({"event": "name_taken"}, 1.0))
    late = record({"event": "agent_refused"}, WINDOW_S + 1)
    assert brake.filter(late)
    assert late.msg == {"event": "agent_refused", "left_out": 50}
    again = record({"event": "agent_refused"}, 2 * WINDOW_S + 2)
    assert brake.filter(again)
    assert "left_out" not in again.msg


def test_a_library_counts_as_one_kind_whatever_it_says() -> None:
    brake = Brake()
    passed = [brake.filter(record(f"message {n}", 0.0, logger="uvicorn.error")) for n in range(MOST + 5)]
    assert sum(passed) == MOST


def test_what_is_no_warning_is_written_always() -> None:
    brake = Brake()
    assert all(brake.filter(record({"event": "client_enrolled"}, 0.0, logging.INFO)) for _ in range(MOST + 5))
