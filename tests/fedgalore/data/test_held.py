"""Data sets beyond what is held in memory: the same examples, read one by one."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedgalore.data.batches import batches, by_length
from fedgalore.data.errors import DataError
from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.data.held import Chosen, Indexed
from fedgalore.model.tasks.registry import check_examples
from tests.fedgalore.conftest import classifier

ROWS = [{"text": f'{"é" * (i % 7)} "{i}"\n{i}', "label": i % 3} for i in range(50)]
TEXT: Any = {"text": ("text",), "label": "label"}


def write(path: Path) -> Path:
    text = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n\r\n" for row in ROWS)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".jsonl":
        path.write_bytes(text.encode())
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n\n")
            writer.writerows([["label", "text"], *([row["label"], row["text"]] for row in ROWS)])
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.jsonl.gz", "a.parquet"])
def test_examples_are_the_same_whether_they_are_held_or_not(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = SplitFile(write(tmp_path / name), **TEXT)
    held = read_examples(split)
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)
    examples = read_examples(split)
    assert isinstance(held, list)
    assert isinstance(examples, Indexed)
    assert list(examples) == held
    assert [example["text"] for example in held] == [row["text"] for row in ROWS]
    order = random.Random(0).sample(range(50), 50)
    assert [examples[index] for index in order] == [held[index] for index in order]
    assert examples[-1] == held[-1]
    assert list(examples[3:9:2]) == held[3:9:2]
    assert list(examples[::-1][1:3]) == held[::-1][1:3]
    assert len(examples[40:]) == 10
    with pytest.raises(IndexError):
        examples[50]
    spec = classifier(local={"batch_size": 4, "group_by_length": True})
    assert list(batches(examples, spec, "a", 1)) == list(batches(held, spec, "a", 1))
    assert list(by_length(examples, 8)) == list(by_length(held, 8))


def test_names_of_classes_are_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {
        "huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}})
    }
    pq.write_table(pa.Table.from_pylist(ROWS).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)
    examples = read_examples(SplitFile(tmp_path / "a.parquet", **TEXT))
    assert isinstance(examples, Indexed)
    assert examples[4]["label_names"] is examples[9]["label_names"]
    assert examples[4]["label_names"] == ("a", "b", "c")


def test_a_file_that_is_changed_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)
    path = write(tmp_path / "a.jsonl")
    examples = read_examples(SplitFile(path, **TEXT))
    path.write_text("other")
    with pytest.raises(DataError, match=r"a\.jsonl: was changed while it was in use; start again, to read it anew"):
        examples[0]


def test_bad_rows_are_found_on_the_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)
    path = write(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes() + b'{"text": "", "label": 0}')
    with pytest.raises(DataError, match="row 101, column 'text': empty text"):
        read_examples(SplitFile(path, **TEXT))


def test_examples_that_are_not_held_are_looked_through_once_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)
    path = write(tmp_path / "a.jsonl")
    examples = read_examples(SplitFile(path, **TEXT))
    check_examples(examples, classifier())
    path.write_text("gone")  # which reading it would find
    check_examples(examples, classifier(local={"steps": 3}))
    with pytest.raises(DataError, match="was changed"):
        check_examples(examples, classifier(model={"num_labels": 4}))


def test_images_of_a_large_table_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 10)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("file,label\na.png,0\na.png,1\n")
    examples = read_examples(SplitFile(tmp_path / "a.csv", image="file", label="label"))
    (tmp_path / "a.png").unlink()
    assert [example["label"] for example in examples] == ["0", "1"]


def test_some_examples_in_an_order_of_their_own() -> None:
    chosen = Chosen([{"row": row} for row in range(9)], [4, 2, 8])
    assert [example["row"] for example in chosen] == [4, 2, 8]
    assert [example["row"] for example in chosen[1:]] == [2, 8]
    assert chosen[-1] == {"row": 8}
