"""A JSON file of records, read one after the other: a list, a list under the key `data`, or objects in a row."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from fedgalore.data.errors import DataError, shown
from fedgalore.data.lines import LONGEST, pieces

_SPACE = re.compile(r"[ \t\n\r]*")
_SHAPE = 'a .json file holds a list of objects, {"data": [...]} with such a list, or an object on each line'


class DoubledKey(ValueError):
    """An object has a key twice, so that a value would be lost."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise DoubledKey(f"the key {shown(doubled)} stands twice in an object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_once)


def records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file with their places in it, from 1.

    Args:
        columns: that a record has. They tell whether a list under `data` holds the records or is a value of one.

    Raises:
        DataError: it is no JSON of such a shape, no UTF-8, or damaged.
        OSError: it cannot be read.
    """
    text = _Text(path)
    found = text.list_of_values() if text.next_is("[") else _objects(text, set(columns))
    for row, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise DataError("not a JSON object", path=path, row=row, remedy=_SHAPE)
        yield row, record
    if not text.next_is(""):
        text.fail("more text after the end")


def _objects(text: _Text, columns: set[str]) -> Iterator[Any]:
    """The list under `data` of the first object; or this object, and those after it."""
    first: dict[str, Any] = {}
    found = False
    text.take("{")
    while not text.next_is("}"):
        key = text.value()
        if key in first or (found and key == "data"):
            text.fail(f"the key {shown(key)} stands twice in an object")
        text.take(":")
        if key == "data" and text.next_is("["):
            values = text.list_of_values()
            head = list(islice(values, 1))
            found = _are_records(head, columns, first)
            if found:
                yield from chain(head, values)
            else:
                first[key] = [*head, *text.bounded(values)]
                text.row = 1
        else:
            first[key] = text.value()
        if not text.next_is("}"):
            text.take(",")
    text.take("}")
    if not found:
        yield first
        while text.next_is("{"):
            yield text.value()


def _are_records(head: Sequence[Any], columns: set[str], before: Collection[str]) -> bool:
    """Whether a list under `data` holds the records: by the first in it, and by the keys before it in the object."""
    if "data" in columns or columns <= set(before):
        return bool(head) and "data" in columns and isinstance(head[0], dict) and columns <= head[0].keys()
    return all(isinstance(value, dict) for value in head)


class _Text:
    """The part of a file's text that is at hand."""

    def __init__(self, path: Path) -> None:
        self._path, self._pieces = path, pieces(path)
        self._text, self._at = "", 0
        self._fetched = 0  # characters
        self.row = 1

    def next_is(self, character: str) -> bool:
        """Whether this comes next, after white space; "" is the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1] == character

    def take(self, character: str) -> None:
        if not self.next_is(character):
            self.fail(f"{character!r} is missing")
        self._at += 1

    def value(self) -> Any:
        self.next_is("")
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError | DoubledKey) or not self._more():
                    self.fail(str(error))
                continue
            if end == len(self._text) and self._more():
                continue  # such as half a number
            self._at = end
            return value

    def list_of_values(self) -> Iterator[Any]:
        self.take("[")
        while not self.next_is("]"):
            yield self.value()
            self.row += 1
            if not self.next_is("]"):
                self.take(",")
        self.take("]")

    def bounded(self, values: Iterator[Any]) -> Iterator[Any]:
        """Values of one record, as long as they fit beside a model."""
        row, start = self.row, self._fetched
        for value in values:
            self.row = row
            if self._fetched - start > LONGEST:
                self._refuse_long()
            yield value

    def fail(self, problem: str) -> NoReturn:
        raise DataError(f"not JSON ({problem})", path=self._path, row=self.row, remedy=_SHAPE)

    def _more(self) -> bool:
        """Fetches as much as is at hand already, so that a long value is not begun too often."""
        rest = [self._text[self._at :]]
        held, wanted = len(rest[0]), max(1, 2 * len(rest[0]))
        if held > LONGEST:
            self._refuse_long()
        while held < wanted and (piece := next(self._pieces, None)) is not None:
            rest.append(piece)
            held += len(piece)
            self._fetched += len(piece)
        self._text, self._at = "".join(rest), 0
        return len(rest) > 1

    def _refuse_long(self) -> NoReturn:
        self.fail(f"a value of more than {LONGEST >> 20} MiB")
