"""What was tried and what came of it, told at the end."""

from __future__ import annotations

from typing import Any

from tests.summary import tell

ROW = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tell(terminalreporter, ROW, "what was tried", ("door", "inputs", "unique refusals", "failures"))
