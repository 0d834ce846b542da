"""Which class of a job a value of a data set means: one rule for every format and task, told in docs/DATA.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

from fedgalore.data.errors import TaskError, shown
from fedgalore.data.values import as_number, as_truth
from fedgalore.spec.job import JobSpec
from fedgalore.spec.names import normal_form

_MOST_NAMES = 20  # in a message


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
        try:
            return self._numbered(value, given) if given else self._found(value)
        except ValueError as error:
            raise TaskError(f"row {row}: {what} {shown(value)} {error}") from None

    def present(self, values: Sequence[Any], row: int | str = "?", given: Sequence[str] = ()) -> set[int]:
        """The classes of a label that may have many: a list of them, or of a mark for each, 0 or 1, true or false.

        Args and raises as `index`; raises for a list that can be read either way, too.
        """
        named = any(normal_form(name) in self._by_name for name in given)  # then a number is a name, and marks none
        marked = None if named else self._marked(values)
        try:
            listed = self._listed(values, row, given)
        except TaskError:
            if marked is None or any(len(self._same(value)) > 1 for value in values):
                raise
            return marked
        if marked is not None:
            raise TaskError(
                f"row {row}: label {shown(values)} may be the classes {self._called(listed)}, or a mark for each class "
                f"and so {self._called(marked)} alone; {self._way_to_mark}"
            )
        return set(listed)

    def _marked(self, values: Sequence[Any]) -> set[int] | None:
        """The classes with a mark of 1 or true, where there is a mark for each class."""
        marks = [as_number(value) if (truth := as_truth(value)) is None else Decimal(truth) for value in values]
        if len(marks) != self.count or not all(mark in (0, 1) for mark in marks):
            return None
        return {index for index, mark in enumerate(marks) if mark}

    def _listed(self, values: Sequence[Any], row: int | str, given: Sequence[str]) -> list[int]:
        """The classes that a list names; a truth value in it is one only where a name says so."""
        for value in values:
            truth = as_truth(value)
            if truth is not None and not self._by_truth[truth]:
                raise TaskError(
                    f"row {row}: label {shown(values)} has {len(values)} values, of which {shown(value)} is a truth "
                    f"value; give one for each of the {self.count} classes, or list the classes that apply"
                )
        found = [self.index(value, row, given=given) for value in values]
        if len(set(found)) != len(found):
            raise TaskError(f"row {row}: label {shown(values)} names a class twice; list each class that applies once")
        return found

    def _found(self, value: Any) -> int:
        same = self._same(value)
        if len(same) == 1:
            return same[0]
        if same:
            first, second = self._names[same[0]], self._names[same[1]]
            raise ValueError(f"may be {first!r} or {second!r}; write the name as text")
        truth, number = as_truth(value), as_number(value)
        if truth is not None:
            return self._truth(truth)
        if number is not None:
            return self._number(number)
        raise ValueError(f"is not a class of this job; expected {self._expected}")

    def _same(self, value: Any) -> list[int]:
        """The classes whose names are this text; or else, whose names say the same truth value or number."""
        text = normal_form(value) if isinstance(value, str) else None
        if text in self._by_name:
            return [self._by_name[text]]
        truth, number = as_truth(value), as_number(value)
        if truth is not None:
            return self._by_truth[truth]
        return self._by_number.get(number, []) if number is not None else []

    def _truth(self, truth: bool) -> int:
        """Of a truth value that no name says: 1 and 0, where these are the two classes."""
        number = Decimal(truth)
        if self.count == 2 and (not self.names or set(self._by_number) == {0, 1}):
            return self._by_number[number][0] if self.names else int(truth)
        reading = f"the number {number}"
        if number in self._by_number:
            reading = repr(self._names[self._by_number[number][0]])
        elif self.names and not self._by_number:
            reading = f"the index of {self._names[int(truth)]!r}"
        raise ValueError(
            f"is a truth value: it may be {reading} or a name that the job lacks; "
            f"write {self._expected}, or name the classes true and false in model.label_names"
        )

    def _number(self, number: Decimal) -> int:
        """Of a number that is no name: an index, unless numbers are names here."""
        index = int(number) if 0 <= number < self.count and number == number.to_integral_value() else None
        if self._by_number:
            other = f"the index of {self._names[index]!r} or " if index is not None else "an index or "
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
        if normal_form(name) in self._by_name:
            return self._by_name[normal_form(name)]
        if self._by_number or any(normal_form(other) in self._by_name for other in given):
            there = f"index {index}, {self.names[index]!r}" if index < self.count else f"index {index}"
            raise ValueError(
                f"may be {name!r}, as the data set calls it, or {there} of the job; add the name to model.label_names, "
                "or take the data set's names there, in any order"
            )
        return self._number(number)

    def _called(self, indices: Iterable[int]) -> str:
        """Classes in a message, by name if they have one."""
        return shown([self.names[index] if self.names else index for index in indices])

    @property
    def _way_to_mark(self) -> str:
        """How to write a list of marks, so that it is nothing else."""
        if any(self._by_truth.values()):
            return "rename the classes true and false in model.label_names"
        by_name = ", or list names of model.label_names" if self.names and not self._by_number else ""
        return f"mark classes by true and false{by_name}"

    @property
    def _expected(self) -> str:
        if not self.names:
            return f"a number from 0 to {self.count - 1}, or set model.label_names"
        more = f" and {self.count - _MOST_NAMES} more" if self.count > _MOST_NAMES else ""
        return f"one of {', '.join(self.names[:_MOST_NAMES])}{more}"

    @property
    def _names(self) -> tuple[str, ...]:
        return self.names or ()

    @cached_property
    def _by_name(self) -> dict[str | None, int]:
        return {normal_form(name): index for index, name in enumerate(self._names)}

    @cached_property
    def _by_truth(self) -> dict[bool, list[int]]:
        """The classes whose names say true, and false, in letters of any case."""
        said = [as_truth(name) for name in self._names]
        return {truth: [index for index, says in enumerate(said) if says is truth] for truth in (True, False)}

    @cached_property
    def _by_number(self) -> dict[Decimal, list[int]]:
        """The classes whose names are numbers."""
        found: dict[Decimal, list[int]] = {}
        for index, name in enumerate(self._names):
            number = as_number(name)
            if number is not None:
                found.setdefault(number, []).append(index)
        return found


def classes_of(spec: JobSpec) -> Classes:
    """The classes of a job. For many examples it is to be held: each call hashes all names, which may be 100,000."""
    return _classes(spec.model.label_names, spec.model.labels)


@lru_cache(maxsize=8)
def _classes(names: tuple[str, ...] | None, count: int) -> Classes:
    return Classes(names, count)


def label_index(example: dict[str, Any], classes: Classes) -> int:
    """The example's label as a class index.

    Raises:
        TaskError: as `Classes.index`.
    """
    return classes.index(example["label"], example.get("row", "?"), given=example.get("label_names", ()))
