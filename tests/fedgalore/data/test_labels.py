"""Which class a value means: the table of docs/DATA.md, row by row, and the same in every format."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedgalore.data.errors import TaskError
from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.data.labels import Classes, as_list, label_index
from tests.fedgalore.conftest import classifier

STARS = ("1", "2", "3", "4", "5")
NFD, NFC = "cafe\u0301", "caf\u00e9"


def index(names: tuple[str, ...] | int, value: Any, given: tuple[str, ...] = ()) -> int:
    classes = Classes(None, names) if isinstance(names, int) else Classes(names, len(names))
    return classes.index(value, 7, given=given)


@pytest.mark.parametrize(
    "value", [4, 4.0, "4", "4.0", " 4 ", "4e0", "+4", "04", Decimal("4.00"), np.int64(4), np.float32(4)]
)
def test_a_number_means_the_same_class_however_it_is_written(value: Any) -> None:
    assert index(STARS, value) == 3  # a name first
    assert index(5, value) == 4
    assert index(("a", "b", "c", "d", "e"), value) == 4
    assert index(("1.0", "2.0", "3.0", "4.0"), value) == 3
    assert index(("01", "02", "03", "04"), value) == 3


@pytest.mark.parametrize("value", [True, np.True_, "true", "True", "TRUE"])
def test_a_truth_value_means_the_same_class_however_it_is_written(value: Any) -> None:
    assert index(("true", "false"), value) == 0
    assert index(("False", "True"), value) == 1
    assert index(2, value) == 1
    assert index(("0", "1"), value) == 1


def test_names_are_texts_compared_in_nfc() -> None:
    assert index((NFC, "tea"), NFD) == index((NFD, "tea"), NFC) == index((NFC, "tea"), f" {NFC}\n") == 0
    assert index(("1", "1.0"), "1.0") == 1
    assert index(("1.1", "1.10"), "1.10") == 1
    assert index(("no", "yes"), "yes") == 1
    assert index(("0.5", "1.5"), 0.5) == 0


@pytest.mark.parametrize(
    ("names", "value", "words"),
    [
        (STARS, 0, "label 0 may be the index of '1' or a name that the job lacks, .*; write one of 1, 2, 3, 4, 5"),
        (STARS, "6", "label '6' may be an index or a name that the job lacks"),
        (("no", "yes", "0"), 1, "label 1 may be the index of 'yes' or a name that the job lacks"),
        (("1", "1.0"), 1.0, "label 1.0 may be '1' or '1.0'; write the name as text"),
        (("True", "true"), True, "label True may be 'True' or 'true'; write the name as text"),
        (("True", "TRUE"), "true", "label 'true' may be 'True' or 'TRUE'"),
        (
            ("yes", "no"),
            True,
            "True is a truth value: it may be the number 1 or a name that the job lacks; write one of yes",
        ),
        (("1", "2"), True, "True is a truth value"),
        (("1", "0"), True, "True is a truth value"),
        (3, True, "True is a truth value.*name the classes true and false in model.label_names"),
        (("cat", "dog"), "cow", "label 'cow' is not a class of this job; expected one of cat, dog"),
        (("cat", "dog"), 2, "label 2 is outside the range 0 to 1; .*model.label_names"),
        (3, "music", "'music' is not a class of this job; expected a number from 0 to 2, or set model.label_names"),
        (3, 3, "label 3 is outside the range 0 to 2; correct the data or the job's model.num_labels"),
        (3, -1, "label -1 is outside"),
        (3, 0.5, "label 0.5 is outside"),
        (3, "1e999", "label '1e999' is outside"),
        (3, "1_0", "'1_0' is not a class"),
        (3, "\u0661", "is not a class"),  # a digit of another script
        (3, float("nan"), "label nan is not a class"),
        (3, None, "label None is not a class"),
        (3, [1], r"label \[1\] is not a class"),
        (3, "x" * 10_000, r"x\.\.\. is not a class"),
        (tuple(f"n{i}" for i in range(1000)), "x", "n19 and 980 more$"),
    ],
)
def test_what_cannot_be_decided_is_refused_with_its_readings(names: Any, value: Any, words: str) -> None:
    with pytest.raises(TaskError, match=rf"^row 7: .*{words}"):
        index(names, value)


def test_class_numbers_of_a_data_set_with_names_of_its_own() -> None:
    given = ("pos", "neg", "mixed")
    assert [index(("neg", "pos", "mixed"), value, given) for value in (0, 1, 2)] == [1, 0, 2]
    assert index(("positive", "negative"), 1, given) == 1  # no name in common: an index
    assert index(3, 2, given) == 2
    with pytest.raises(TaskError, match="label 2 may be 'mixed', as the data set calls it, or index 2, 'x' of the job"):
        index(("neg", "pos", "x"), 2, given)
    with pytest.raises(
        TaskError, match="label 1 may be '2 stars', as the data set calls it, or index 1, '2' of the job"
    ):
        index(STARS, 1, ("1 star", "2 stars"))
    for value in (-1, 3, "pos"):
        with pytest.raises(TaskError, match="none of the data set's 3 classes; label it or remove the row"):
            index(3, value, given)


def test_lists_are_lists_or_their_json_text() -> None:
    assert as_list([1, "a"]) == as_list('[1, "a"]') == as_list((1, "a")) == [1, "a"]
    assert as_list("a, b") is as_list("['a']") is as_list(1) is None


NAMED = classifier(model={"num_labels": None, "label_names": list(STARS)})


@pytest.mark.parametrize(("spec", "expected"), [(NAMED, [0, 3]), (classifier(model={"num_labels": 5}), [1, 4])])
def test_every_format_gives_the_same_classes(tmp_path: Path, spec: Any, expected: list[int]) -> None:
    texts = ["a", "b"]
    (tmp_path / "whole.csv").write_text("text,label\na,1\nb,4\n")
    (tmp_path / "gaps.csv").write_text("text,label\na,1.0\nb,4.0\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\nb\t4.0\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "4"}\n')
    (tmp_path / "gaps.jsonl").write_text('{"text": "a", "label": 1.0}\n{"text": "b", "label": "4.0"}\n')
    columns = {
        "int": pa.array([1, 4]),
        "float": pa.array([1.0, 4.0]),
        "text": pa.array(["1", "4"]),
        "decimal": pa.array([Decimal("1.00"), Decimal("4.00")]),
        "dictionary": pa.array(["1", "4"]).dictionary_encode(),
        "bytes": pa.array([1, 4], pa.uint8()),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"text": texts, "label": column}), tmp_path / f"{name}.parquet")
    for path in sorted(tmp_path.iterdir()):
        examples = read_examples(SplitFile(path, text=("text",), label="label"))
        assert [label_index(example, spec) for example in examples] == expected, path


def test_truth_values_are_the_same_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,True\nb,false\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a", "label": v}) + "\n" for v in (True, False)))
    pq.write_table(pa.table({"text": ["a", "b"], "label": [True, False]}), tmp_path / "a.parquet")
    named = classifier(model={"num_labels": None, "label_names": ["true", "false"]})
    for path in sorted(tmp_path.iterdir()):
        examples = read_examples(SplitFile(path, text=("text",), label="label"))
        assert [label_index(example, named) for example in examples] == [0, 1], path
        assert [label_index(example, classifier(model={"num_labels": 2})) for example in examples] == [1, 0], path
