"""What is wrong with a site's data, in words for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedgalore.spec.documents import printable

_LONGEST = 80  # characters of a value in a message


def shown(value: Any) -> str:
    """A value in a message: cut where it is long."""
    return printable(repr(value), _LONGEST)


class DataError(ValueError):
    """Data that cannot be trained on. The message names file, row, column and remedy."""

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        path: Path | None = None,
        row: int | str | None = None,
        column: str | None = None,
    ) -> None:
        place = [str(path)] if path else []
        place += [f"row {row}"] if row is not None else []
        place += [f"column {column!r}"] if column is not None else []
        text = f"{', '.join(place)}: {problem}" if place else problem
        super().__init__(f"{text}; {remedy}" if remedy else text)


class TaskError(ValueError):
    """The model or an example does not fit the job; the message names the field and the remedy.

    `told`: what of it may leave a site, where it is of a site's examples: no row, value, label or file.
    """

    def __init__(self, words: str, told: str = "the job cannot take an example of this site") -> None:
        super().__init__(words)
        self.told = told
