"""Which class of a job a value of a data set means: one rule for every format and task, told in docs/DATA.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fedgalore.data.errors import TaskError
from fedgalore.spec.job import JobSpec
from fedgalore.spec.names import plain

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
_TRUTH = {"true": True, "false": False}
_MOST_NAMES = 20  # in a message
_LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Classes:
    """A job's classes: their names in the order of their index, or only their number."""

    names: tuple[str, ...] | None
    count: int

    def index(self, value: Any, row: int | str = "?", what: str = "label", given: Sequence[str] = ()) -> int:
        """The class of a value, `0 <= index < count`.

        Args:
            row, what: for the message.
            given: names that the data set itself has for its class numbers, such as a ClassLabel's.

        Raises:
            TaskError: no class of the job, or what can be read as one of two; names the row, the value and the remedy.
        """
        value = value.item() if isinstance(value, np.generic) else value
        try:
            return self._numbered(value, given) if given else self._found(value)
        except ValueError as error:
            shown = repr(value)
            shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
            raise TaskError(f"row {row}: {what} {shown} {error}") from None

    def _found(self, value: Any) -> int:
        text = plain(value) if isinstance(value, str) else None
        if text in self._by_name:
            return self._by_name[text]
        truth = value if isinstance(value, bool) else _TRUTH.get((text or "").casefold())
        if truth is not None:
            return self._truth(truth)
        number = as_number(value)
        if number is None:
            raise ValueError(f"is not a class of this job; expected {self._expected}")
        return self._number(number)

    def _truth(self, truth: bool) -> int:
        """A name that says it; or 1 and 0, where these can only be two classes."""
        spelled = [name for name in self.names or () if _TRUTH.get(plain(name).casefold()) is truth]
        if len(spelled) > 1:
            raise ValueError(f"may be {spelled[0]!r} or {spelled[1]!r}; write the name as text")
        if spelled:
            return self._by_name[plain(spelled[0])]
        same = self._by_number.get(Decimal(truth)) if self.names else [int(truth)]
        if self.count == 2 and same == [int(truth)]:
            return int(truth)
        raise ValueError(
            f"is a truth value: it may be the number {int(truth)} or a name that the job lacks; "
            f"write {self._expected}, or name the classes true and false in model.label_names"
        )

    def _number(self, number: Decimal) -> int:
        """A name that has this value; else an index, unless numbers are names here."""
        same = self._by_number.get(number, [])
        if len(same) == 1:
            return same[0]
        names = self.names or ()
        if same:
            raise ValueError(f"may be {names[same[0]]!r} or {names[same[1]]!r}; write the name as text")
        index = int(number) if 0 <= number < self.count and number == number.to_integral_value() else None
        if self._by_number:
            other = f"the index of {names[index]!r} or " if index is not None else "an index or "
            raise ValueError(
                f"may be {other}a name that the job lacks, as names in model.label_names are numbers; "
                f"write {self._expected}"
            )
        if index is None:
            raise ValueError(
                f"is outside the range 0 to {self.count - 1}; correct the data or the job's "
                f"{'model.label_names' if self.names else 'model.num_labels'}"
            )
        return index

    def _numbered(self, value: Any, given: Sequence[str]) -> int:
        """By the name that the data set has for it, if the data set and the job share names; else as an index."""
        number = as_number(value)
        if number is None or not (0 <= number < len(given) and number == number.to_integral_value()):
            raise ValueError(f"is none of the data set's {len(given)} classes; label it or remove the row")
        index, name = int(number), given[int(number)]
        if not self.names:
            return self._number(number)
        if plain(name) in self._by_name:
            return self._by_name[plain(name)]
        if self._by_number or any(plain(other) in self._by_name for other in given):
            there = f"index {index}, {self.names[index]!r}" if index < self.count else f"index {index}"
            raise ValueError(
                f"may be {name!r}, as the data set calls it, or {there} of the job; add the name to model.label_names, "
                "or take the data set's names there, in any order"
            )
        return self._number(number)

    @property
    def _expected(self) -> str:
        if not self.names:
            return f"a number from 0 to {self.count - 1}, or set model.label_names"
        more = f" and {self.count - _MOST_NAMES} more" if self.count > _MOST_NAMES else ""
        return f"one of {', '.join(self.names[:_MOST_NAMES])}{more}"

    @cached_property
    def _by_name(self) -> dict[str | None, int]:
        return {plain(name): index for index, name in enumerate(self.names or ())}

    @cached_property
    def _by_number(self) -> dict[Decimal, list[int]]:
        """The classes whose names are numbers."""
        found: dict[Decimal, list[int]] = {}
        for index, name in enumerate(self.names or ()):
            number = as_number(name)
            if number is not None:
                found.setdefault(number, []).append(index)
        return found


def classes_of(spec: JobSpec) -> Classes:
    """The classes of a job, whose names are looked through once."""
    return _classes(spec.model.label_names, spec.model.labels)


@lru_cache(maxsize=8)
def _classes(names: tuple[str, ...] | None, count: int) -> Classes:
    return Classes(names, count)


def label_index(example: dict[str, Any], spec: JobSpec) -> int:
    """The example's label as a class index.

    Raises:
        TaskError: as `Classes.index`.
    """
    return classes_of(spec).index(example["label"], example.get("row", "?"), given=example.get("label_names", ()))


def as_number(value: Any) -> Decimal | None:
    """A number, or the text of one in digits: exactly as it is written. None for anything else, truth values too."""
    if isinstance(value, str):
        text = value.strip()
        return Decimal(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, int):
        return Decimal(value)
    return Decimal(repr(value) if isinstance(value, float) else value) if math.isfinite(value) else None


def as_list(value: Any) -> list[Any] | None:
    """A list, or the JSON text of one, as a CSV file has it; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return list(value) if isinstance(value, list | tuple) else None
