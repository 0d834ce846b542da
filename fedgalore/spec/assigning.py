"""A value put into a document at a path such as `local.learning_rate` or `model.label_names[0]`. Pure."""

from __future__ import annotations

import re
from typing import Any

_PART = re.compile(r"[^.\[\]]+")  # of `model.label_names[0]`, which is also model.label_names.0
SECTIONS = 2  # levels of a job that its spec names: sections and their fields


class AssignError(ValueError):
    """The document has no place for the value; the message says what there is."""


def parts_of(path: str) -> list[str]:
    """The keys and indices of a path; none where it is no path."""
    parts = _PART.findall(path)
    return parts if ".".join(parts) == re.sub(r"\[(\d+)\]", r".\1", path.strip()) else []


def assign(document: dict[str, Any], path: str, value: Any, *, known: int = SECTIONS) -> None:
    """Changes the document.

    Args:
        known: in so many levels only what the document has can be set; below them, and in a section that is null, any
            key can be new.

    Raises:
        AssignError
    """
    place: Any = document
    parts = parts_of(path)
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        where = ".".join(parts[:depth]) or "the document"
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                raise AssignError(f"{where} is a list of {len(place)}; give an index below that")
            key: Any = int(part)
        elif isinstance(place, dict):
            if part not in place and ((depth < known and place) or (known and not last)):
                raise AssignError(f"{where} has no {part}; it has {', '.join(place) or 'nothing yet'}")
            key = part
        else:
            raise AssignError(f"{where} is {place!r} and holds no {part}; set it whole")
        if last:
            place[key] = value
        elif place.get(key) is None if isinstance(place, dict) else place[key] is None:
            place[key] = {}  # a section that was off
        place = place[key]
