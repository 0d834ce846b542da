"""A document with single values changed: `--set local.learning_rate=1.0e-4`, and what it changes, as a diff."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from typing import Any

from fedgalore.spec.assigning import AssignError, assign, parts_of
from fedgalore.spec.documents import DocumentError, read_yaml
from fedgalore_cli.output import as_yaml


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
        if not equals or not parts_of(path):
            raise MendError(f"--set {assignment}: is no assignment; write path=value, such as local.steps=20")
        try:
            value = read_yaml(text)
        except DocumentError as error:
            raise MendError(f"--set {path}: the value is {error}") from None
        _check_kind(document, path, value)
        try:
            assign(changed, path, value)
        except AssignError as error:
            raise MendError(f"--set {path}: {error}") from None
    return changed


def diff(before: Any, after: Any) -> str:
    """What the second document changes, as a unified diff of both as YAML; empty where they are equal."""
    old, new = as_yaml(before).splitlines(), as_yaml(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, "before", "after", n=2, lineterm=""))


def _check_kind(document: dict[str, Any], path: str, value: Any) -> None:
    """The fields of a method do not fit another one."""
    kind = document.get("method", {}).get("kind")
    if path == "method.kind" and value != kind:
        raise MendError(
            f"--set method.kind: the other fields of {kind} do not fit {value}; set the whole section, as in "
            f"--set 'method={{kind: {value}, rank: 8}}'"
        )
