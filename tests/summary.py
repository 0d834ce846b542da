"""Rows that tests record as a property, told as one table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def tell(terminalreporter: Any, property_name: str, title: str, head: Sequence[str]) -> None:
    """Writes the rows recorded under this name by tests of any worker process; nothing where there are none."""
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == property_name and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section(title)
    for row in [head, ["---"] * len(head), *rows]:
        terminalreporter.write_line("| " + " | ".join(map(str, row)) + " |")
