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

from fedgalore.data.errors import DataError, TaskError
from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.data.labels import Classes, classes_of, label_index
from fedgalore.data.values import as_list, as_number, as_truth, key
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
    assert index(("true", "other"), value) == 0
    assert index(2, value) == 1
    assert index(("0", "1"), value) == 1
    assert index(("1.0", "0.0"), value) == 0
    assert index(("1", "0"), str(value).lower().replace("true", "FALSE")) == 1


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
            "True is a truth value: it may be the index of 'no' or a name that the job lacks; write one of yes",
        ),
        (("1", "2"), True, "True is a truth value: it may be '1' or a name that the job lacks"),
        (("-1", "1"), "True", "'True' is a truth value: it may be '1' or a name"),
        (("positive", "1"), True, "True is a truth value: it may be '1' or a name"),
        (("0", "x"), False, "False is a truth value: it may be '0' or a name"),
        (("0", "x"), "TRUE", "'TRUE' is a truth value: it may be the number 1 or a name"),
        (("true", "other"), False, "False is a truth value"),
        (("0", "1", "2"), True, "True is a truth value: it may be '1' or a name"),
        (3, 10**400, r"label 10+\.\.\. is outside"),
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


@pytest.mark.parametrize("write", [lambda v: v, str, float, np.float32, lambda v: f"{v}.0"])
def test_a_list_means_the_same_classes_however_its_numbers_are_written(write: Any) -> None:
    def present(names: tuple[str, ...] | int, *numbers: int) -> set[int]:
        classes = Classes(None, names) if isinstance(names, int) else Classes(names, len(names))
        return classes.present([write(number) for number in numbers], 7)

    for names in (3, ("a", "b", "c"), ("0", "1", "2")):
        assert present(names, 1, 0, 1) == {0, 2}
        assert present(names, 0, 0, 0) == set()
        assert present(names, 1, 0) == {0, 1}
        assert present(names, 0, 1, 2) == {0, 1, 2}
    assert present(("1", "0"), 1, 1) == {0, 1}
    assert present(("1", "0"), 0) == {1}
    for names in (2, ("a", "b"), ("1", "0")):
        with pytest.raises(TaskError, match=r"row 7: label \[.*\] may be the classes .*, or a mark for each class"):
            present(names, 1, 0)


@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        (2, [True, False], {0}),
        (("0", "1"), ["False", "TRUE"], {1}),
        (("0", "x"), [1, 0], {0}),  # 1 is no class
        (("a", "b"), ["true", 0], {0}),
        (("a", "b"), [], set()),
        (("true", "false", "odd"), [True, "odd"], {0, 2}),
        (("true", "false", "odd"), [True, False, True], {0, 2}),
    ],
)
def test_truth_values_in_a_list_mark_classes(names: Any, values: list[Any], expected: set[int]) -> None:
    classes = Classes(None, names) if isinstance(names, int) else Classes(names, len(names))
    assert classes.present(values) == expected


@pytest.mark.parametrize(
    ("names", "values", "words"),
    [
        (
            ("a", "b"),
            [1, 0],
            r"\['b', 'a'\], or a mark for each class and so \['a'\] alone; mark .* or list names of model.label_names$",
        ),
        (("1", "0"), ["1", "0"], r"mark classes by true and false$"),
        (("true", "false"), [True, False], "alone; rename the classes true and false in model.label_names$"),
        (("0", "0.0", "1"), ["0", "0.0", "1"], "or a mark for each class"),
        (("1", "1.0"), [1, 0], r"label 1 may be '1' or '1\.0'"),
        (3, [True, False], "has 2 values, of which True is a truth value; give one for each of the 3 classes"),
        (3, [2, "2.0"], "names a class twice"),
        (3, [1, 2, 3], "label 3 is outside"),
        (3, [[1]], r"label \[1\] is not a class"),
        (3, ["x" * 10_000, "y"], r"x\.\.\. is not a class"),
        (3, [2] * 10_000, r"2\.\.\. names a class twice"),
    ],
)
def test_a_list_that_cannot_be_decided_is_refused(names: Any, values: list[Any], words: str) -> None:
    classes = Classes(None, names) if isinstance(names, int) else Classes(names, len(names))
    with pytest.raises(TaskError, match=rf"^row 7: .*{words}"):
        classes.present(values, 7)


def test_a_list_of_class_numbers_that_have_names_marks_nothing() -> None:
    assert Classes(("b", "a"), 2).present([0, 1], given=("a", "b")) == {0, 1}
    assert Classes(("x", "y", "z"), 3).present([0, 1, 1], given=("absent", "present")) == {1, 2}


def test_what_means_the_same_is_one_key() -> None:
    assert {key(value) for value in (4, 4.0, "4", " 4.0", Decimal(4), np.float32(4))} == {4}
    assert {key(value) for value in (True, "TRUE", np.True_)} == {"true"}
    assert key(0.5) == key("0.50") == key(np.float16(0.5)) == "0.5"
    assert key(NFC) == key(f"{NFD} ") != key(NFC.upper())
    assert key('["a", 1]') == key(["a", "1.0"]) == ("a", 1)
    assert len({key(value) for value in (1, True, "one", None, [1])}) == 5


def test_scalars_of_numpy_are_read_at_their_precision() -> None:
    assert as_number(np.float32(0.1)) == as_number(np.float16(0.1)) == Decimal("0.1")
    assert as_truth(np.False_) is False
    assert as_number(np.True_) is as_truth(np.int8(1)) is None
    assert index(("0.1", "0.2"), np.float32(0.2)) == 1


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
        assert [label_index(example, classes_of(spec)) for example in examples] == expected, path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    "write", [lambda v: v, str, bool, lambda v: str(bool(v))], ids=["0", "'0'", "false", "'False'"]
)
def test_every_format_gives_the_same_marks(tmp_path: Path, name: str, write: Any) -> None:
    rows = [[write(value) for value in row] for row in ([1, 0, 1], [0, 0, 0])]
    path = tmp_path / name
    records = [{"text": "a", "label": row} for row in rows]
    if name == "a.csv":
        lines = ['a,"' + json.dumps(row).replace('"', '""') + '"' for row in rows]
        path.write_text("\n".join(["text,label", *lines]))
    elif path.suffix in (".parquet", ".arrow"):
        table = pa.Table.from_pylist(records)
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
    else:
        path.write_text("\n".join(map(json.dumps, records)))
    labels = [example["label"] for example in read_examples(SplitFile(path, text=("text",), label="label"))]
    assert [Classes(None, 3).present(as_list(label) or []) for label in labels] == [{0, 2}, set()]


NARROW = ("0.1", "0.30000004", "7", "nothing")


@pytest.mark.parametrize(
    "kind",
    [
        pa.float32(),
        pa.large_string(),
        pa.decimal128(12, 8),
        pa.list_(pa.float32()),
        pa.dictionary(pa.int8(), pa.float32()),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_a_column_holds_what_text_would_at_its_precision(tmp_path: Path, kind: Any) -> None:
    texts = pa.array(list(NARROW[:3]))
    value = getattr(kind, "value_type", kind)
    column = texts.cast(value) if value == kind else None
    if column is None and pa.types.is_dictionary(kind):
        column = texts.cast(value).dictionary_encode().cast(kind)
    if column is None:
        column = pa.array([[item] for item in texts.cast(value).to_pylist()], kind)
    pq.write_table(pa.table({"text": list("abc"), "label": column}), tmp_path / "a.parquet")
    labels = [e["label"] for e in read_examples(SplitFile(tmp_path / "a.parquet", text=("text",), label="label"))]
    flat = [label[0] if isinstance(label, list) else label for label in labels]
    assert [index(NARROW, label) for label in flat] == [0, 1, 2]
    assert [np.float32(label) for label in flat] == [np.float32(text) for text in NARROW[:3]]  # as regression has it


def test_halves_wide_decimals_and_unsigned_integers_of_a_column(tmp_path: Path) -> None:
    for names, column in (
        (("0.1", "7"), pa.array(np.array([0.1, 7], np.float16))),
        (
            ("0.1234567890123456789", "12345678901234567890"),
            pa.array([Decimal("0.1234567890123456789"), 12345678901234567890], pa.decimal256(60, 30)),
        ),
        (("9007199254740993", "18446744073709551615"), pa.array([2**53 + 1, 2**64 - 1], pa.uint64())),
    ):
        pq.write_table(pa.table({"text": ["a", "b"], "label": column}), tmp_path / "a.parquet")
        labels = [e["label"] for e in read_examples(SplitFile(tmp_path / "a.parquet", text=("text",), label="label"))]
        assert [index(names, label) for label in labels] == [0, 1]
        json.dumps(labels)  # as a copy on the disk holds them


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (
            pa.array([1], pa.timestamp("ns")),
            r"column 'label': holds times \(timestamp\[ns\]\); save the column as text",
        ),
        (pa.array([[1]], pa.list_(pa.date32())), r"holds times \(date32"),
        (pa.array([1], pa.duration("s")), "holds times"),
        (
            pa.array([None], pa.float32()),
            "row 1, column 'label': label None is no number, name or list of them; give a",
        ),
        (pa.array([[0.5, None]], pa.list_(pa.float32())), r"label \[0\.5, None\] is no number"),
        (pa.array([float("nan")], pa.float32()), "label nan is no number"),
        (pa.array([b"a"]), "label b'a' is no number, name or list of them; .*as text"),
        (pa.array([b"\xff"]).view(pa.string()), "no Parquet file, or damaged"),
    ],
    ids=str,
)
def test_columns_of_no_labels_are_refused(tmp_path: Path, column: Any, words: str) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"a\.parquet[,:] .*{words}"):
        read_examples(SplitFile(tmp_path / "a.parquet", text=("text",), label="label"))


def test_truth_values_are_the_same_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,True\nb,false\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a", "label": v}) + "\n" for v in (True, False)))
    pq.write_table(pa.table({"text": ["a", "b"], "label": [True, False]}), tmp_path / "a.parquet")
    named = classifier(model={"num_labels": None, "label_names": ["true", "false"]})
    for path in sorted(tmp_path.iterdir()):
        examples = read_examples(SplitFile(path, text=("text",), label="label"))
        assert [label_index(example, classes_of(named)) for example in examples] == [0, 1], path
        assert [label_index(example, classes_of(classifier(model={"num_labels": 2}))) for example in examples] == [
            1,
            0,
        ], path
