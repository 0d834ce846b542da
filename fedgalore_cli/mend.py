"""A document with single values changed: `--set local.learning_rate=1.0e-4`, and what it changes, as a diff."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from typing import Any

from fedgalore.spec.documents import DocumentError, read_yaml
from fedgalore_cli.output import as_yaml

_PART = re.compile(r"[^.\[\]]+")  # of `model.label_names[0]`, which is also model.label_names.0


class MendError(ValueError):
    """An assignment that the document has no place for; the message says what there is."""


def mended(document: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of the document with these assignments, each `path=value` with the value as YAML.

    A path names a key at each step, or the index in a list. What the document lacks is refused in its first two levels,
    the sections of a job and their fields; below them, and in a section that is null, any key can be new.

    Raises:
        MendError
    """
    changed = copy.deepcopy(document)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        parts = _PART.findall(path)
        if not equals or not parts or ".".join(parts) != re.sub(r"\[(\d+)\]", r".\1", path.strip()):
            raise MendError(f"--set {assignment}: is no assignment; write path=value, such as local.steps=20")
        try:
            value = read_yaml(text)
        except DocumentError as error:
            raise MendError(f"--set {path}: the value is {error}") from None
        _check_kind(document, path, value)
        _assign(changed, parts, value, path)
    return changed


def diff(before: Any, after: Any) -> str:
    """What the second document changes, as a unified diff of both as YAML; empty where they are equal."""
    old, new = as_yaml(before).splitlines(), as_yaml(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, "before", "after", n=2, lineterm=""))


def _assign(document: dict[str, Any], parts: list[str], value: Any, path: str) -> None:
    place: Any = document
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        where = ".".join(parts[:depth]) or "the document"
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                raise MendError(f"--set {path}: {where} is a list of {len(place)}; give an index below that")
            key: Any = int(part)
        elif isinstance(place, dict):
            if part not in place and ((depth < 2 and place) or not last):
                raise MendError(f"--set {path}: {where} has no {part}; it has {', '.join(place) or 'nothing yet'}")
            key = part
        else:
            raise MendError(f"--set {path}: {where} is {place!r} and holds no {part}; set it whole")
        if last:
            place[key] = value
        elif place[key] is None:
            place[key] = {}  # a section that was off
        place = place[key]


def _check_kind(document: dict[str, Any], path: str, value: Any) -> None:
    """The fields of a method do not fit another one."""
    kind = document.get("method", {}).get("kind")
    if path == "method.kind" and value != kind:
        raise MendError(
            f"--set method.kind: the other fields of {kind} do not fit {value}; set the whole section, as in "
            f"--set 'method={{kind: {value}, rank: 8}}'"
        )
