"""`fedgalore agent --log`: the site's log for people, and whether it is as the agent wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from client_agent.site_log import FILE, Line, read

_PLAIN = re.compile(r"[\w.:@+-]+", re.ASCII)
_LEFT_OUT = ("number", "at", "event")


def shown(work_dir: Path) -> tuple[list[str], list[str]]:
    """A row for each line, with the hash of the last below them; what is wrong with the log, in sentences."""
    found = read(work_dir)
    rows = [_row(line) for line in found.lines]
    last = f"{len(rows)} lines; the hash of the last is {found.head}" if rows else f"{work_dir / FILE} has no lines yet"
    return [*rows, last], found.problems


def _row(line: Line) -> str:
    at = datetime.fromtimestamp(line["at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{line['number']:>6}  {at}  {line['event']:<9} {' '.join(_fields(line))}".rstrip()


def _fields(line: Line) -> Iterator[str]:
    """What a coordinator has named is shown as JSON, which has no bytes that a terminal obeys."""
    for name, value in line.items():
        if name not in _LEFT_OUT:
            plain = isinstance(value, str) and _PLAIN.fullmatch(value)
            yield f"{name}={value if plain else json.dumps(value)}"
