"""What was tried and what came of it, told at the end."""

from __future__ import annotations

from typing import Any

ROW = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == ROW and report.when == "call"
    ]
    if rows:
        terminalreporter.section("what was tried")
        for row in [("door", "inputs", "unique refusals", "failures"), ["---"] * 4, *rows]:
            terminalreporter.write_line("| " + " | ".join(map(str, row)) + " |")
