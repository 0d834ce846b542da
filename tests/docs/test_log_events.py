"""The log events of OPERATIONS.md are those of the code, in one vocabulary."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client_agent", "coordinator", "fedgalore", "fedgalore_cli", "protos")
LEVELS = {method: method for method in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}
ROW = re.compile(r"^\| `(?P<event>\w+)` \| (?P<levels>[\w, ]+) \|", re.MULTILINE)
NAME = re.compile(r"[a-z]+(_[a-z]+)+")


def logged() -> dict[str, set[str]]:
    """Levels by event, of every call of a logger; what is not spelled out there stands as its expression."""
    levels: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(value=logger, attr=method), args=[event, *_]) if method in {
                        *LEVELS,
                        "log",
                        "fatal",
                    } and ast.unparse(logger).split(".")[-1].strip("_") in ("log", "logger"):
                        name = event.value if isinstance(event, ast.Constant) else ast.unparse(event)
                        levels.setdefault(str(name), set()).add(LEVELS.get(method, method))
    return levels


def documented() -> dict[str, set[str]]:
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    section = page.split("## Log events", 1)[1].split("\n## ", 1)[0]
    return {row["event"]: set(row["levels"].split(", ")) for row in ROW.finditer(section)}


def test_every_event_is_words_joined_by_underscores() -> None:
    assert [event for event in logged() if not NAME.fullmatch(event)] == []


def test_the_table_names_every_event_with_its_levels_and_no_other() -> None:
    assert documented() == logged()
