"""Columns of Parquet and Arrow files, and of the folders that the library `datasets` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedgalore.data.columns import require_columns
from fedgalore.data.errors import DataError
from fedgalore.data.values import as_python

ROWS = 256  # that are held at a time
_AGAIN = "write it again"

Names = Mapping[str, Sequence[str]]  # of the numbers in a column
Values = Iterator[dict[str, Any]]


def read_parquet(path: Path, columns: Sequence[str]) -> tuple[Values, Names]:
    """A Parquet file's rows, and the names that its schema has for numbers.

    Raises:
        DataError: it is damaged or lacks a column.
        OSError: it cannot be read.
    """
    from pyarrow import parquet  # type: ignore[import-untyped]

    with _in_words(path, "Parquet"):
        schema = parquet.read_schema(path)
    _require(path, columns, schema)

    def rows() -> Values:
        with _in_words(path, "Parquet"), parquet.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                yield from _records(batch)

    return rows(), _names(_features(schema.metadata), columns)


def read_arrow(path: Path, columns: Sequence[str]) -> tuple[Values, Names]:
    """An Arrow file's rows, of either kind: file or stream. Returns and raises as `read_parquet`."""
    import pyarrow

    with _in_words(path, "Arrow"), pyarrow.memory_map(str(path)) as source:
        schema = _opened(source).schema
    _require(path, columns, schema)

    def rows() -> Values:
        with _in_words(path, "Arrow"), pyarrow.memory_map(str(path)) as source:
            file = _opened(source)
            of_file = hasattr(file, "num_record_batches")
            for batch in map(file.get_batch, range(file.num_record_batches)) if of_file else file:
                chosen = batch.select(list(columns))
                for start in range(0, len(chosen), ROWS):
                    yield from _records(chosen.slice(start, ROWS))

    return rows(), _names(_features(schema.metadata), columns)


def files_of_dataset(folder: Path) -> list[Path] | None:
    """The files of a data set that `datasets` has saved in a folder, in order; None for any other folder.

    Raises:
        DataError: it holds splits in sub-folders, or its files are not to be read as they are.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise DataError(
            f"holds splits in sub-folders: {', '.join(splits) or 'none'}",
            path=folder,
            remedy=f"name one of them, such as {folder / splits[0]}" if splits else "save the data set again",
        )
    state = folder / "state.json"
    if not state.is_file():
        return None
    document = _json(state)
    if document.get("_indices_data_files"):
        raise DataError("holds a selection of other files' rows", path=folder, remedy="save it by flatten_indices()")
    names = [str(item.get("filename")) for item in document.get("_data_files") or [] if isinstance(item, dict)]
    if not names or any(Path(name).name != name for name in names):
        raise DataError("state.json names no files of the folder", path=folder, remedy="save the data set again")
    return [folder / name for name in names]


def read_dataset(folder: Path, files: Sequence[Path], columns: Sequence[str]) -> tuple[Values, Names]:
    """The rows of a saved data set's files, and names of numbers as its description has them.

    Returns and raises as `read_parquet`.
    """
    read = [read_arrow(path, columns) for path in files]
    info = folder / "dataset_info.json"
    features = _json(info).get("features") if info.is_file() else None
    names = _names(features, columns) or read[0][1]
    return (values for rows, _ in read for values in rows), names


def _require(path: Path, columns: Sequence[str], schema: Any) -> None:
    """Refuses a table that lacks a column, or has times in one: other files have them as texts of many forms."""
    import pyarrow

    require_columns(path, columns, schema.names)
    for column in columns:
        kind = _innermost(schema.field(column).type)
        if pyarrow.types.is_temporal(kind):
            raise DataError(f"holds times ({kind})", path=path, column=column, remedy="save the column as text")


def _records(batch: Any) -> Values:
    columns = [_values(column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """A column's values; floats of 16 and 32 bits as short as text has them: 0.1, not 0.10000000149011612."""
    import pyarrow

    kind, values = _innermost(column.type), column.to_pylist()
    if pyarrow.types.is_float16(kind):
        return [_shortest(value, np.float16) for value in values]
    return [_shortest(value, np.float32) for value in values] if pyarrow.types.is_float32(kind) else values


def _shortest(value: Any, precision: type[np.floating[Any]]) -> Any:
    if isinstance(value, list):
        return [_shortest(item, precision) for item in value]
    return value if value is None else as_python(precision(value))


def _innermost(kind: Any) -> Any:
    """The type of the values in lists, and in columns that hold each value once."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


def _features(metadata: Mapping[bytes, bytes] | None) -> Any:
    """What `datasets` says of the columns in a schema's metadata."""
    try:
        return json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features")
    except (ValueError, AttributeError):
        return None


def _names(features: Any, columns: Sequence[str]) -> Names:
    found = {}
    for column in columns:
        feature = features.get(column) if isinstance(features, dict) else None
        while isinstance(feature, dict | list) and feature:  # a list is described by its items, in one way or another
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                names = feature.get("names")
                found[column] = tuple(map(str, names)) if isinstance(names, list) else ()
                break
            feature = feature[0] if isinstance(feature, list) else feature.get("feature")
    return {column: names for column, names in found.items() if names}


def _opened(source: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.ipc.open_file(source)
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_stream(source)


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"not JSON ({error})", path=path, remedy="save the data set again") from error
    return document if isinstance(document, dict) else {}


@contextmanager
def _in_words(path: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"no {kind} file, or damaged ({error})", path=path, remedy=_AGAIN) from error
