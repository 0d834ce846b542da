"""The files of one client of a split data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgalore.spec.documents import write_yaml

OWN_KEYS = ("label", "tokens", "tags", "prompt", "completion", "messages")  # columns that shards keep by these names


def write_client(
    folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], dataset: str, coordinator: str
) -> None:
    """Writes the examples of each split as JSONL, and a config for an agent that has them."""
    folder.mkdir(parents=True)
    names = {}
    for split, examples in splits.items():
        if examples:
            names[split] = f"{split}.jsonl"
            with (folder / names[split]).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(_written(example)) + "\n" for example in examples)
    first = splits["train"][0]
    keys: dict[str, Any] = {key: key for key in OWN_KEYS if key in first}
    if "text" in first:
        keys["text"] = ["text", "text_pair"] if first["text_pair"] is not None else "text"
    if "columns" in first:
        keys["columns"] = {name: _own(name) for name in first["columns"]}
    document = {
        "name": folder.name,
        "coordinator": coordinator,
        "work_dir": "work",
        "data": {dataset: {**names, **keys}},
    }
    (folder / "agent.yaml").write_text(write_yaml(document), encoding="utf-8")


def _own(name: str) -> str:
    """The column of a shard that holds what templates call by this name, apart from all others."""
    return f"column {name}"


def _written(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example as a row; class numbers that have names in the data set by these, since a row cannot explain them."""
    left_out = ("row", "label_names", "tag_names", "columns")
    row = {k: v for k, v in example.items() if k not in left_out and v is not None}
    row |= {_own(name): value for name, value in example.get("columns", {}).items()}
    for key, names in (("label", example.get("label_names")), ("tags", example.get("tag_names"))):
        if names and isinstance(row[key], list):
            row[key] = [names[number] for number in row[key]]
        elif names:
            row[key] = names[row[key]]
    return row
