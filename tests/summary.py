"""Rows that tests record as a property, printed as a table at the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def tell(terminalreporter: Any, property_name: str, title: str, head: Sequence[str]) -> None:
    """Prints the rows that tests of any worker process recorded under this name. Without rows it prints nothing."""
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
