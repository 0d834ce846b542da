"""What stands in the columns of a table, as an example holds it; what is no such value is refused with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from fedgalore.data import images
from fedgalore.data.errors import DataError, shown
from fedgalore.data.messages import FORM, Message, MessageError, messages_of
from fedgalore.data.values import as_list, as_number, is_readable
from fedgalore.spec.names import normal_form
from fedgalore.spec.strict import MANY

Label = bool | int | float | str

_FILL = "fill it or remove the row"


@dataclass(frozen=True)
class Cell:
    """One value of a table and its place."""

    path: Path
    row: int | str
    column: str
    value: Any

    def refuse(self, problem: str, remedy: str = "") -> NoReturn:
        """Raises:
        DataError: always; names file, row and column.
        """
        raise DataError(problem, path=self.path, row=self.row, column=self.column, remedy=remedy)

    @property
    def shown(self) -> str:
        """The value in a message."""
        return shown(self.value)


def require_columns(path: Path, columns: Sequence[str], present: Sequence[str], row: int | str | None = None) -> None:
    """Refuses a table, or one of its rows, that lacks a column.

    Raises:
        DataError: names the column and those that are there.
    """
    for column in columns:
        if present.count(column) != 1:
            problem = "no such column" if column not in present else "the column appears more than once"
            names = ", ".join(map(repr, present[:20])) or "no columns"
            remedy = f"the file has {names}; name the right one"
            wanted = normal_form(column).casefold()
            if alike := next((name for name in present if normal_form(name).casefold() == wanted), None):
                remedy += f", as it stands there: {alike!a}" if alike != column else ""
            if len(present) == 1 and (divider := next((mark for mark in ";\t|" if mark in present[0]), None)):
                remedy = f"the file has {names}, which {divider!r} divides; save it with commas, or with tabs as .tsv"
            raise DataError(problem, path=path, row=row, column=column, remedy=remedy)


def text(cell: Cell) -> str:
    """Text in which something can be read."""
    value = _string(cell)
    if not is_readable(value):
        cell.refuse("empty text" if not value.strip() else f"nothing can be read in the text {cell.shown}", _FILL)
    return value


def label(cell: Cell, names: Sequence[str] = ()) -> Label | list[Label]:
    """A number, a truth value, text, or a list of them; what it means is up to the job.

    Args:
        names: what the table calls the classes that its numbers stand for.
    """
    found = [_plain(item) for item in cell.value] if isinstance(cell.value, list | tuple) else _plain(cell.value)
    if found is None or (isinstance(found, list) and None in found):
        cell.refuse(
            f"label {cell.shown} is no number, name or list of them",
            "give a finite number, or one of the job's label_names as text",
        )
    _refuse_unnamed(cell, found if isinstance(found, list) else [found], names)
    return found  # type: ignore[return-value]


def tokens(cell: Cell) -> list[str]:
    """The words of a text, at least one in which something can be read; others may be empty."""
    words = [_string(replace(cell, value=word)) for word in _items(cell)]
    if not any(map(is_readable, words)):
        cell.refuse(f"nothing can be read in the words {cell.shown}", _FILL)
    return words


def tags(cell: Cell, names: Sequence[str] = ()) -> list[Label]:
    """The label of each word; `names` as of `label`."""
    return [label(replace(cell, value=tag), names) for tag in _items(cell)]  # type: ignore[misc]


def messages(cell: Cell) -> list[Message]:
    """Who says what, in its order; what else a message has is left out."""
    try:
        return messages_of(_items(cell, f"[{FORM}]"))
    except MessageError as error:
        cell.refuse(str(error))


def value(cell: Cell) -> str:
    """What a template may be filled with: a text, which may be empty, or a number as it is written."""
    if cell.value is None:
        return ""
    if not isinstance(cell.value, bool | str) and (number := _plain(cell.value)) is not None:
        return str(number)
    return _string(cell)


def image(cell: Cell, follow_links: bool) -> str:
    """The absolute path of an image that the table names relative to its folder."""
    folder = cell.path if cell.path.is_dir() else cell.path.parent
    try:
        return str(images.checked(folder, text(cell), follow_links))
    except images.ImageError as error:
        raise DataError(str(error), path=cell.path, row=cell.row, column=cell.column) from error


def domain(cell: Cell) -> int | str:
    """A name or an integer."""
    value = cell.value
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        cell.refuse(f"domain {cell.shown} is neither a name nor an integer", _FILL)
    return value


def _refuse_unnamed(cell: Cell, values: Sequence[Label | None], names: Sequence[str]) -> None:
    """`datasets` marks what has no class by -1."""
    if names and not all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        cell.refuse(f"{cell.shown} is none of the data set's {len(names)} classes", "label it or remove the row")


def _plain(value: Any) -> Label | None:
    """A value as JSON has it, a whole number as an int: a column with gaps holds its integers as floats.

    A decimal fraction of more digits than a float holds is its text.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float | Decimal) and math.isfinite(value):
        if value == int(value) and (isinstance(value, Decimal) or abs(value) <= MANY):
            return int(value)
        return float(value) if as_number(float(value)) == as_number(value) else str(value)
    return value if isinstance(value, bool | int) else None


def _items(cell: Cell, form: str = '["a", "b"]') -> list[Any]:
    """A list that is not empty, such as `form`; in CSV and TSV files the JSON text of one."""
    values = as_list(cell.value)
    if not values:
        found = "an empty one" if values == [] else cell.shown
        cell.refuse(f"expected a list, found {found}", f"write it as JSON has it, such as {form}")
    return values


def _string(cell: Cell) -> str:
    if not isinstance(cell.value, str):
        if isinstance(cell.value, dict) and "bytes" in cell.value:
            cell.refuse("an image inside of the table", "save the images as files, and name them in the column")
        if cell.value is None:
            cell.refuse("expected text, found nothing", _FILL)
        cell.refuse(f"expected text, found {cell.shown}", "write it as text, in quotes")
    try:
        cell.value.encode()
    except UnicodeEncodeError:  # JSON can spell half a character: "\ud83d"
        cell.refuse("broken Unicode (half a surrogate pair)")
    return cell.value
