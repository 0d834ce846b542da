"""A site's own examples, read from tables or a folder of images, and checked on the way in.

An example is a dict:

| keys | what of |
|---|---|
| `text: str`, `text_pair: str or None`, `label: Label or list[Label]` | a text, or a pair of texts, with its label |
| `image: str`, `label` | an image, by its absolute path, with its label |
| `tokens: list[str]`, `tags: list[Label]` | the words of a text, each with its tag |
| `prompt: str`, `completion: str` | a question with its answer |
| `messages: list[{"role": str, "content": str}]` | a conversation; an answer of `"weight": 0` is not learned |
| `columns: dict[str, str]` | what a job's template may name, alone or beside others |

`Label` is `bool | int | float | str`; what it means: `fedgalore.data.labels`. Where the table itself has names for
class numbers, they are in `label_names` or `tag_names`, a tuple that all examples share.

Each has `row`, what a person looks up in the file, from 1 on: the line; in Parquet, Arrow and `.json` files the place;
in a folder of tables also the file's name, `part-1.csv:17`; in a folder of images the place in the order of names.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedgalore.data import columns as cells
from fedgalore.data import images
from fedgalore.data.arrow import Names
from fedgalore.data.columns import Cell
from fedgalore.data.errors import DataError as DataError  # where callers look for it
from fedgalore.data.held import Example as Example
from fedgalore.data.held import Indexed, spooled
from fedgalore.data.tables import Table, open_table

KINDS = (  # of columns that make examples
    {"text", "label"},
    {"image", "label"},
    {"tokens", "tags"},
    {"prompt", "completion"},
    {"messages"},
)
COLUMNS_REMEDY = (
    "name text (one or two columns) and label, image and label, tokens and tags, prompt and completion, messages, or "
    "columns for a job's template"
)
MOST_HELD = 32 * 2**20  # bytes of a file, or of its examples, up to which they are held in memory


@dataclass(frozen=True)
class SplitFile:
    """One table and the columns that matter in it, as `KINDS` has them.

    `for_templates`: more columns, by the names that a job's template has for them.

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
    for_templates: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = set().union(*KINDS)
        named = {key for key in keys if getattr(self, key) not in ((), None)}
        if named not in (*KINDS, set()) or len(self.text) > 2:
            raise DataError("columns do not make examples", path=self.path, remedy=COLUMNS_REMEDY)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read; none for a folder of images."""
        of_pairs = (self.image, self.tokens, self.tags, self.label, self.prompt, self.completion)
        named = (*self.text, *of_pairs, self.messages, *self.for_templates.values(), self.domain)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def read_examples(split: SplitFile) -> Sequence[Example]:
    """All examples of a table in its order, or of a folder of images in the order of names.

    What is larger than `MOST_HELD` is not held in memory: examples are read one by one, from the file where it lets
    itself be read at any place, or else from a copy in a temporary file.

    Raises:
        DataError: the file is missing, of an unknown kind, empty, not UTF-8 or damaged, lacks a column, or holds an
            empty text or a label that is no number, name or list of them; an image is missing, outside the folder, or
            no image.
    """
    try:
        examples = _read_table(split) if split.columns else list(_images_by_class(split.path, split.follow_links))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})",
            path=split.path,
            remedy="name a file, or a folder of tables or images, that this process can read",
        ) from error
    if not examples:
        raise DataError("holds no examples", path=split.path, remedy="fill it, or leave it out")
    return examples


def _read_table(split: SplitFile) -> Sequence[Example]:
    table = open_table(split.path, split.columns, split.quoting)
    checked_at_once = split.image is not None  # an image is opened for that, and not again whenever it is asked for
    if table.parse is not None and not checked_at_once and split.path.stat().st_size > MOST_HELD:
        return _in_place(split, table)
    same = _names(split, table)
    examples = (_example(split, record.row, record.values, table.names) for record in table.records)
    held: list[Example] = []
    size = 0
    for example in examples:
        held.append(example | same)
        size += len(repr(example))
        if size > MOST_HELD:
            return spooled(chain(held, examples), split.path, same)
    return held


def _in_place(split: SplitFile, table: Table) -> Indexed:
    """Looks through a file once, and notes where each record begins."""
    parse = table.parse
    assert parse is not None
    rows, starts = array("Q"), array("Q")
    for record in table.records:
        _example(split, record.row, record.values)
        rows.append(int(record.row))
        starts.append(record.start)
    file = split.path.open("rb")
    return Indexed(file, split.path, starts, lambda number, data: _example(split, rows[number], parse(data)))


def _images_by_class(folder: Path, follow_links: bool) -> Iterator[Example]:
    if folder.is_file():
        raise DataError("no columns are named, and it is no folder of images", path=folder, remedy=COLUMNS_REMEDY)
    try:
        for row, (label, name) in enumerate(images.by_class(folder), start=1):
            yield {"row": row, "image": str(images.checked(folder, name, follow_links)), "label": label}
    except images.ImageError as error:
        raise DataError(str(error), path=folder) from error


def _names(split: SplitFile, table: Table) -> Example:
    """Names that the table has for the class numbers in its columns."""
    found = {"label_names": table.names.get(split.label or ""), "tag_names": table.names.get(split.tags or "")}
    return {key: tuple(names) for key, names in found.items() if names}


def _example(split: SplitFile, row: int | str, record: dict[str, Any], names: Names = MappingProxyType({})) -> Example:
    def cell(column: str) -> Cell:
        return Cell(split.path, row, column, record[column])

    example: Example = {"row": row}
    if split.text:
        example["text"], *pair = (cells.text(cell(column)) for column in split.text)
        example["text_pair"] = pair[0] if pair else None
    if split.image is not None:
        example["image"] = cells.image(cell(split.image), split.follow_links)
    if split.label is not None:
        example["label"] = cells.label(cell(split.label), names.get(split.label, ()))
    if split.tokens is not None and split.tags is not None:
        example["tokens"] = cells.tokens(cell(split.tokens))
        example["tags"] = cells.tags(cell(split.tags), names.get(split.tags, ()))
    if split.prompt is not None and split.completion is not None:
        example |= {"prompt": cells.text(cell(split.prompt)), "completion": cells.text(cell(split.completion))}
    if split.messages is not None:
        example["messages"] = cells.messages(cell(split.messages))
    if split.for_templates:
        example["columns"] = {name: cells.value(cell(column)) for name, column in split.for_templates.items()}
    if split.domain is not None:
        example["domain"] = cells.domain(cell(split.domain))
    return example
