"""The records of a site's tables: text files, packed or not, Arrow files, and folders of files of one kind."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOENT
from os import strerror
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedgalore.data import arrow, json_records
from fedgalore.data.columns import require_columns
from fedgalore.data.errors import DataError
from fedgalore.data.images import is_litter
from fedgalore.data.lines import LONGEST, Lines

ONE_OBJECT = "JSONL holds one JSON object on each line"
_BY_SPARK = re.compile(r"_SUCCESS|_(?:common_)?metadata|_(?:committed|started)_\d+")  # beside its shards
QUOTES = "set quoting: false if quotes are plain text"


class Record(NamedTuple):
    """A row, as a person finds it, with its values by column; `start`: its first byte in a text file."""

    row: int | str
    values: dict[str, Any]
    start: int = 0


@dataclass(frozen=True)
class Table:
    """Records that are read one after the other.

    `names`: of the numbers in a column, where the table has them. `parse`: a record of its bytes, in a file that can be
    read at any place.
    """

    path: Path
    records: Iterator[Record]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parse: Callable[[bytes], dict[str, Any]] | None = None


def open_table(path: Path, columns: Sequence[str], quoting: bool = True) -> Table:
    """A table by its suffix, or a folder of tables.

    Args:
        quoting: whether quotes in a CSV or TSV file enclose fields.

    Raises:
        DataError: an unknown kind; and while its records are read, a file that is damaged or lacks a column.
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _folder(path, columns, quoting)
    if not path.exists():
        raise FileNotFoundError(ENOENT, strerror(ENOENT))
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if suffix in (".parquet", ".arrow") and not packed:
        read = arrow.read_parquet if suffix == ".parquet" else arrow.read_arrow
        records, names = read(path, columns)
        return Table(path, (Record(row, values) for row, values in enumerate(records, start=1)), names)
    if suffix == ".json":
        return Table(path, _json(path, columns))
    if suffix in (".jsonl", ".ndjson"):
        return Table(path, _jsonl(path, columns), parse=None if packed else _of_line)
    if suffix in (".csv", ".tsv"):
        return _delimited(path, columns, "\t" if suffix == ".tsv" else ",", quoting, packed)
    raise DataError(
        f"unknown kind of file {''.join(path.suffixes[-2:]) if packed else path.suffix!r}",
        path=path,
        remedy="use one of .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz), .parquet, .arrow",
    )


def _json(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    for row, values in json_records.records(path, columns):
        require_columns(path, columns, list(values), row)
        yield Record(row, values)


def _of_line(line: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json_records.DECODER.decode(line.decode())
    return record


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    lines = Lines(path)
    for line in lines:
        if not line.strip():
            continue
        try:
            values = json_records.DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON ({error})", path=path, row=lines.number, remedy=ONE_OBJECT) from error
        if not isinstance(values, dict):
            raise DataError("not a JSON object", path=path, row=lines.number, remedy=ONE_OBJECT)
        require_columns(path, columns, list(values), lines.number)
        yield Record(lines.number, values, lines.start)


def _delimited(path: Path, columns: Sequence[str], delimiter: str, quoting: bool, packed: bool) -> Table:
    header: list[str] = []

    def fields(lines: Iterator[str]) -> Any:
        # strict: a quote that is never closed is an error instead of a field that swallows the rest of the file
        enclosed: Literal[0, 3] = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=delimiter, quoting=enclosed, strict=True)

    def records() -> Iterator[Record]:
        csv.field_size_limit(LONGEST)
        lines = Lines(path)
        row, start = 1, 0
        try:
            for values in fields(iter(lines)):
                if not values:  # a blank line
                    pass
                elif not header:
                    header.extend(values)
                    require_columns(path, columns, header)
                else:
                    if len(values) != len(header):
                        raise DataError(
                            f"{len(values)} fields under a header of {len(header)}",
                            path=path,
                            row=row,
                            remedy=f"quote fields that hold the delimiter; {QUOTES}",
                        )
                    yield Record(row, dict(zip(header, values, strict=True)), start)
                row, start = lines.number + 1, lines.end  # a record may span lines
        except csv.Error as error:
            raise DataError(f"damaged ({error})", path=path, row=row, remedy=QUOTES) from error

    def parse(record: bytes) -> dict[str, Any]:
        lines = io.StringIO(record.decode(), newline="")
        return dict(zip(header, next(filter(None, fields(lines))), strict=True))

    return Table(path, records(), parse=None if packed else parse)


def _folder(folder: Path, columns: Sequence[str], quoting: bool) -> Table:
    """A folder that the library `datasets` has written, or files of one kind, in the order of their names."""
    files = arrow.files_of_dataset(folder)
    if files is not None:
        records, names = arrow.read_dataset(folder, files, columns)
        return Table(folder, (Record(row, values) for row, values in enumerate(records, start=1)), names)
    paths = [path for path in sorted(folder.iterdir()) if not (is_litter(path.name) or _BY_SPARK.fullmatch(path.name))]
    ends = [[suffix.lower() for suffix in path.suffixes] for path in paths]
    kinds = {"".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:]) for suffixes in ends}
    if len(kinds) != 1 or any(path.is_dir() for path in paths):
        found = ", ".join(repr(path.name) for path in paths[:5]) or "nothing"
        raise DataError(
            f"is a folder of {found}",
            path=folder,
            remedy="name a table, or a folder that holds files of one kind alone; or name no columns for a folder of "
            "images with a sub-folder for each class",
        )
    splits = {path.name.split("-")[0] for path in paths if "-" in path.name} & {"train", "test", "validation", "dev"}
    if len(splits) > 1:
        raise DataError(
            f"holds files of {' and '.join(sorted(splits))}", path=folder, remedy="move each split into its own folder"
        )
    tables = [open_table(path, columns, quoting) for path in paths]
    if odd := next((table for table in tables if table.names != tables[0].names), None):
        raise DataError(
            f"names its classes otherwise than {tables[0].path.name}", path=odd.path, remedy="write the folder again"
        )
    records_of_all = (
        record._replace(row=f"{table.path.name}:{record.row}") for table in tables for record in table.records
    )
    return Table(folder, records_of_all, tables[0].names)
