"""A table of the inputs that were tried and their outcomes, printed at the end of the run."""

from __future__ import annotations

from typing import Any

from tests.summary import tell

ROW = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tell(terminalreporter, ROW, "what was tried", ("door", "inputs", "unique refusals", "failures"))
