"""A site's own examples, read from JSONL, CSV, TSV or Parquet files or a folder of images, checked on the way in.

An example is a dict, by task:

- classification of texts: `{"row": int, "text": str, "text_pair": str | None, "label": Label}`
- classification of images: `{"row": int, "image": str, "label": Label}`, the image's absolute path
- classification of words: `{"row": int, "tokens": list[str], "tags": list[Label]}`
- language model: `{"row": int, "prompt": str, "completion": str}`
- language model of conversations: `{"row": int, "messages": [{"role": str, "content": str}, ...]}`

`row` is what a person looks up in the file: the 1-based line (for Parquet the 1-based row; in a folder of images, the
place in the order of names). What a label means is up to `fedgalore.model.tasks`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from fedgalore.data import images
from fedgalore.data.errors import DataError as DataError  # where callers look for it
from fedgalore.data.labels import as_list

Example = dict[str, Any]
Label = bool | int | float | str

# columns that make examples
KINDS = ({"text", "label"}, {"image", "label"}, {"tokens", "tags"}, {"prompt", "completion"}, {"messages"})
COLUMNS_REMEDY = (
    "name text (one or two columns) and label, image and label, tokens and tags, prompt and completion, or messages"
)

_FIELD_LIMIT = 2**31 - 1  # csv refuses fields past 128 KiB by default; documents may be longer


@dataclass(frozen=True)
class SplitFile:
    """One table and the columns that matter in it: those of one of `KINDS`.

    An image is named relative to the table's folder. Without columns, `path` is a folder of images, with a sub-folder
    for each class.

    `domain`: a column that tells where an example is from; it comes along as `"domain"` and is not trained on.

    `quoting`: whether quotes in a CSV/TSV file enclose fields. Many TSV files use them as plain characters.

    `follow_links`: whether images may be links to files outside of the folder.
    """

    path: Path
    text: tuple[str, ...] = ()
    image: str | None = None
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    quoting: bool = True
    domain: str | None = None
    follow_links: bool = False
    tokens: str | None = None
    tags: str | None = None
    messages: str | None = None

    def __post_init__(self) -> None:
        named = {key for key in set().union(*KINDS) if getattr(self, key) not in ((), None)}
        if named not in (*KINDS, set()) or len(self.text) > 2:
            raise DataError("columns do not make examples", path=self.path, remedy=COLUMNS_REMEDY)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read; none for a folder of images."""
        labelled = (*self.text, self.image, self.label, self.tokens, self.tags)
        named = (*labelled, self.prompt, self.completion, self.messages, self.domain)
        return tuple(name for name in named if name is not None)


def read_examples(split: SplitFile) -> list[Example]:
    """All examples of a file in its order, or of a folder of images in the order of names.

    Raises:
        DataError: the file is missing, of an unknown kind, empty, not UTF-8 or damaged, lacks a column, or holds an
            empty text or a label that is no number, name or list of them; an image is missing, outside the folder, or
            no image.
    """
    try:
        examples = list(_examples(split))
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 ({error.reason} at byte {error.start})", path=split.path, remedy="save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})",
            path=split.path,
            remedy="check the path in the agent's config",
        ) from error
    if not examples:
        raise DataError("holds no examples", path=split.path, remedy="remove the split from the config or fill it")
    return examples


def _examples(split: SplitFile) -> Iterator[Example]:
    if not split.columns:
        return _images_by_class(split.path, split.follow_links)
    if split.path.is_dir():
        raise DataError(
            "is a folder, in which there are no columns",
            path=split.path,
            remedy="name a table; or name no columns for a folder of images with a sub-folder for each class",
        )
    reader = _READERS.get(split.path.suffix.lower())
    if reader is None:
        raise DataError(
            f"unknown kind of file {split.path.suffix!r}",
            path=split.path,
            remedy=f"use one of {', '.join(sorted(_READERS))}",
        )
    return (_example(split, row, record) | _domain(split, row, record) for row, record in reader(split))


def _images_by_class(folder: Path, follow_links: bool) -> Iterator[Example]:
    if folder.is_file():
        raise DataError("no columns are named, and it is no folder of images", path=folder, remedy=COLUMNS_REMEDY)
    try:
        for row, (label, name) in enumerate(images.by_class(folder), start=1):
            yield {"row": row, "image": str(images.checked(folder, name, follow_links)), "label": label}
    except images.ImageError as error:
        raise DataError(str(error), path=folder) from error


def _example(split: SplitFile, row: int, record: dict[str, Any]) -> Example:
    if split.prompt is not None and split.completion is not None:
        prompt, completion = (_text(split, row, record, column) for column in (split.prompt, split.completion))
        return {"row": row, "prompt": prompt, "completion": completion}
    if split.messages is not None:
        return {"row": row, "messages": _messages(split, row, record[split.messages])}
    if split.tokens is not None and split.tags is not None:
        tokens = [_string(split, row, split.tokens, token) for token in _list(split, row, record, split.tokens)]
        tags = [_label(split, row, tag, split.tags) for tag in _list(split, row, record, split.tags)]
        return {"row": row, "tokens": tokens, "tags": tags}
    example: Example = {"row": row}
    if split.image is not None:
        example["image"] = _image(split, row, record, split.image)
    else:
        example["text"], *pair = (_text(split, row, record, column) for column in split.text)
        example["text_pair"] = pair[0] if pair else None
    assert split.label is not None  # SplitFile saw to it
    return example | {"label": _label(split, row, record[split.label], split.label)}


def _list(split: SplitFile, row: int, record: dict[str, Any], column: str) -> list[Any]:
    """A list that is not empty; in CSV and TSV files the JSON text of one."""
    values = as_list(record[column])
    if not values:
        raise DataError(
            f"expected a list, found {'an empty one' if values == [] else repr(record[column])[:80]}",
            path=split.path,
            row=row,
            column=column,
            remedy='write it as JSON has it, such as ["a", "b"]',
        )
    return values


def _messages(split: SplitFile, row: int, value: Any) -> list[dict[str, str]]:
    """Who says what, in its order; what else a message has is left out."""
    column = str(split.messages)
    messages = _list(split, row, {column: value}, column)
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(
                f"message {number} has no role and content",
                path=split.path,
                row=row,
                column=column,
                remedy='write each as {"role": "user", "content": "..."}',
            )
    return [{key: _string(split, row, column, message[key]) for key in ("role", "content")} for message in messages]


def _text(split: SplitFile, row: int, record: dict[str, Any], column: str) -> str:
    value = _string(split, row, column, record[column])
    if not value.strip():
        raise DataError("empty text", path=split.path, row=row, column=column, remedy="fill it or remove the row")
    return value


def _string(split: SplitFile, row: int, column: str, value: Any) -> str:
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise DataError(f"expected text, found {kind}", path=split.path, row=row, column=column)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character: "\ud83d"
        raise DataError("broken Unicode (half a surrogate pair)", path=split.path, row=row, column=column) from error
    return value


def _image(split: SplitFile, row: int, record: dict[str, Any], column: str) -> str:
    name = _text(split, row, record, column)
    try:
        return str(images.checked(split.path.parent, name, split.follow_links))
    except images.ImageError as error:
        raise DataError(str(error), path=split.path, row=row, column=column) from error


def _domain(split: SplitFile, row: int, record: dict[str, Any]) -> Example:
    if split.domain is None:
        return {}
    value = record[split.domain]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"domain {value!r} is neither a name nor an integer",
            path=split.path,
            row=row,
            column=split.domain,
            remedy="fill it or remove the row",
        )
    return {"domain": value}


def _label(split: SplitFile, row: int, value: Any, column: str) -> Label | list[Label]:
    """A number, a truth value, text, or a list of them; what it means is up to the job."""
    plain = [_plain(item) for item in value] if isinstance(value, list | tuple) else _plain(value)
    if plain is None or (isinstance(plain, list) and None in plain):
        raise DataError(
            f"label {value!r} is no number, name or list of them",
            path=split.path,
            row=row,
            column=column,
            remedy="give the class index from 0 on, or one of the job's label_names",
        )
    return plain  # type: ignore[return-value]


def _plain(value: Any) -> Label | None:
    """A value as JSON has it, a whole number as an int: a column with gaps holds its integers as floats."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return int(value) if value == int(value) else float(value)
    return value if isinstance(value, bool | int) else None


def _require_columns(split: SplitFile, present: list[str], row: int | None = None) -> None:
    for column in split.columns:
        if present.count(column) != 1:
            problem = "no such column" if column not in present else "the column appears more than once"
            names = ", ".join(map(repr, present[:20])) or "no columns"
            raise DataError(
                problem,
                path=split.path,
                row=row,
                column=column,
                remedy=f"the file has {names}; name the right one in the config",
            )


def _read_jsonl(split: SplitFile) -> Iterator[tuple[int, dict[str, Any]]]:
    with split.path.open(encoding="utf-8-sig") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"not JSON ({error})", path=split.path, row=row, remedy="JSONL holds one JSON object on each line"
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    "not a JSON object", path=split.path, row=row, remedy="JSONL holds one JSON object on each line"
                )
            _require_columns(split, list(record), row)
            yield row, record


def _read_delimited(split: SplitFile) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_LIMIT)
    delimiter = "\t" if split.path.suffix.lower() == ".tsv" else ","
    with split.path.open(encoding="utf-8-sig", newline="") as file:
        # strict: a quote that is never closed is an error instead of a field that swallows the rest of the file
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if split.quoting else csv.QUOTE_NONE
        lines = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        row, header = 1, None
        try:
            for fields in lines:
                if header is None:
                    header = fields
                    _require_columns(split, header)
                elif fields:
                    if len(fields) != len(header):
                        raise DataError(
                            f"{len(fields)} fields under a header of {len(header)}",
                            path=split.path,
                            row=row,
                            remedy="quote fields that hold the delimiter; set quoting: false if quotes are plain text",
                        )
                    yield row, dict(zip(header, fields, strict=True))
                row = lines.line_num + 1  # a record may span lines; the next one starts after its last
        except csv.Error as error:
            raise DataError(
                f"damaged ({error})", path=split.path, row=row, remedy="set quoting: false if quotes are plain text"
            ) from error


def _read_parquet(split: SplitFile) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    with split.path.open("rb") as source:
        try:
            file = parquet.ParquetFile(source)
            _require_columns(split, list(file.schema_arrow.names))
            row = 0
            for batch in file.iter_batches(columns=list(split.columns)):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
        except pyarrow.ArrowException as error:
            raise DataError(
                f"not a Parquet file or damaged ({error})", path=split.path, remedy="write it again"
            ) from error


_READERS = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".parquet": _read_parquet,
}
